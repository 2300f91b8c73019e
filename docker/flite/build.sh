#!/bin/sh
# Compiles the library of flite and its English, whose intonation is computed too, without any fused product and sum: so
# its voices say the same samples on arm64 as on amd64.
#
# In: /run/in/sources/flite, the source archive; JOBS, how many compilers may run at once. Out: /run/out, a tree that
# takes the place of two libraries of Debian's package libflite1; voices, lexicons and the program are Debian's.
set -eu
umask 022
export LC_ALL=C

mkdir /tmp/flite
cd /tmp/flite
tar -xzf /run/in/sources/flite --strip-components=1 --wildcards \
    '*/COPYING' '*/include' '*/src' '*/lang/usenglish'

# Every unit that the libraries of Debian have, with no sound device behind them.
library="
audio/au_none audio/au_streaming audio/auclient audio/audio audio/auserver
cg/cst_cg cg/cst_cg_dump_voice cg/cst_cg_load_voice cg/cst_cg_map cg/cst_mlpg cg/cst_mlsa cg/cst_spamf0 cg/cst_vc
hrg/cst_ffeature hrg/cst_item hrg/cst_rel_io hrg/cst_relation hrg/cst_utterance
lexicon/cst_lexicon lexicon/cst_lts lexicon/cst_lts_rewrites
regex/cst_regex regex/regexp regex/regsub
speech/cst_lpcres speech/cst_track speech/cst_track_io speech/cst_wave speech/cst_wave_io speech/cst_wave_utils
speech/g721 speech/g723_24 speech/g723_40 speech/g72x speech/rateconv
stats/cst_cart stats/cst_ss stats/cst_viterbi
synth/cst_ffeatures synth/cst_phoneset synth/cst_ssml synth/cst_synth synth/cst_utt_utils synth/cst_voice synth/flite
utils/cst_alloc utils/cst_args utils/cst_endian utils/cst_error utils/cst_features utils/cst_file_stdio
utils/cst_mmap_posix utils/cst_socket utils/cst_string utils/cst_tokenstream utils/cst_url utils/cst_val
utils/cst_val_const utils/cst_val_user utils/cst_wchar
wavesynth/cst_clunits wavesynth/cst_diphone wavesynth/cst_reflpc wavesynth/cst_sigpr wavesynth/cst_sts
wavesynth/cst_units
"
english="
us_aswd us_dur_stats us_durz_cart us_expand us_f0_model us_f0lr us_ffeatures us_gpos us_int_accent_cart
us_int_tone_cart us_nums_cart us_phoneset us_phrasing_cart us_pos_cart us_text usenglish
"

# -ffp-contract=off is what this is for. _M_X64 asks for values of 64 bits, as Debian's voices have them on arm64 too;
# flite's own headers know them by the names of x86_64 alone.
CFLAGS="-O2 -fPIC -w -ffp-contract=off -D_M_X64 -DCST_AUDIO_NONE -Iinclude -ffile-prefix-map=/tmp/flite=flite"
export CFLAGS

mkdir objects
for name in $library; do echo "src/$name"; done > units
for name in $english; do echo "lang/usenglish/$name"; done >> units
xargs -P "${JOBS:-1}" -I{} sh -c '
    gcc $CFLAGS -I"$(dirname {})" -c "{}.c" -o "objects/$(echo {} | tr / -).o" || exit 255' < units

place="/run/out/usr/lib/$(gcc -print-multiarch)"
mkdir -p "$place" /run/out/usr/share/doc/flite-exact
LDFLAGS="-shared -Wl,--build-id=none -Wl,-z,relro -s"
gcc $LDFLAGS -Wl,-soname,libflite.so.1 objects/src-*.o -lm -o "$place/libflite.so.2.2"
gcc $LDFLAGS -Wl,-soname,libflite_usenglish.so.1 objects/lang-*.o "$place/libflite.so.2.2" \
    -o "$place/libflite_usenglish.so.2.2"
cp COPYING /run/out/usr/share/doc/flite-exact/COPYING

# In dpkg's form, so that the probe of an image finds what is in it.
mkdir -p /run/out/var/lib/dpkg/status.d
printf 'Package: flite-exact\nStatus: install ok unpacked\nVersion: 2.2\nDescription: %s\n' \
    "libflite compiled from source without fused products and sums" > /run/out/var/lib/dpkg/status.d/built-flite
