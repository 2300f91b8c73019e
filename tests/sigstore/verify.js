// Verifies Sigstore bundles by public key: node verify.js KEYS FILE...
// KEYS is a folder of FINGERPRINT.pem. Prints one line per file; the exit code is the number of files refused.
const fs = require("fs");
const crypto = require("crypto");
const path = require("path");
const { bundleFromJSON } = require("@sigstore/bundle");
const { Verifier, toSignedEntity, toTrustMaterial } = require("@sigstore/verify");

const [keys, ...files] = process.argv.slice(2);
const nobody = { certificateAuthorities: [], timestampAuthorities: [], tlogs: [], ctlogs: [] };
const keyOf = (hint) => ({
  publicKey: crypto.createPublicKey(fs.readFileSync(path.join(keys, `${path.basename(hint)}.pem`))),
  validFor: () => true,
});
const verifier = new Verifier(toTrustMaterial(nobody, keyOf), { tlogThreshold: 0, ctlogThreshold: 0, timestampThreshold: 0 });
let refused = 0;
for (const file of files) {
  try {
    verifier.verify(toSignedEntity(bundleFromJSON(JSON.parse(fs.readFileSync(file, "utf8")))));
    console.log(`accepted ${path.basename(file)}`);
  } catch (error) {
    refused += 1;
    console.log(`refused ${path.basename(file)}: ${error.message}`);
  }
}
process.exitCode = Math.min(refused, 100);
