#!/bin/sh
# Compiles the four programs of Kaldi that the features stage runs, against OpenBLAS, and nothing else of it.
#
# In: /run/in/sources/kaldi, the source archive; JOBS, how many compilers may run at once. Out: /run/out, a tree.
# Kaldi's configure is not run: it wants its own copies of OpenFst and OpenBLAS, and measures the speed of expf to
# choose a flag (KALDI_NO_EXPF), so that a busy machine would get another program. Here the flag is left out, always:
# glibc's expf is the fast one on both architectures.
set -eu
umask 022
export LC_ALL=C

mkdir /tmp/kaldi
cd /tmp/kaldi
tar -xzf /run/in/sources/kaldi --strip-components=1 --wildcards \
    '*/COPYING' '*/src/.version' '*/src/base' '*/src/matrix' '*/src/util' '*/src/feat' '*/src/transform' \
    '*/src/itf' '*/src/gmm' '*/src/tree' '*/src/featbin'

# What base/kaldi-error.cc includes; elsewhere a script derives it from a git checkout.
printf '#define KALDI_VERSION "%s"\n' "$(head -n 1 src/.version)" > src/base/version.h

# Debian's lapack.h declares Fortran's hidden lengths of strings as arguments, which Kaldi does not pass.
mkdir include
cp /usr/include/lapacke.h /usr/include/lapacke_config.h /usr/include/lapacke_mangling.h \
    /usr/include/lapacke_utils.h include/
sed '/^#define LAPACK_FORTRAN_STRLEN_END/d' /usr/include/lapack.h > include/lapack.h

# The compilation units that the programs are linked from; a missing one fails the link below.
sources="
base/io-funcs base/kaldi-error base/kaldi-math base/kaldi-utils
matrix/compressed-matrix matrix/kaldi-matrix matrix/kaldi-vector matrix/matrix-functions matrix/packed-matrix
matrix/qr matrix/sp-matrix matrix/sparse-matrix matrix/srfft matrix/tp-matrix
util/kaldi-holder util/kaldi-io util/kaldi-semaphore util/kaldi-table util/parse-options util/text-utils
feat/feature-fbank feat/feature-functions feat/feature-window feat/mel-computations feat/resample feat/wave-reader
transform/cmvn
"
programs="compute-fbank-feats compute-cmvn-stats apply-cmvn copy-feats"

# -O1 and assertions are Kaldi's default; debugging symbols would be stripped. OpenFst is Debian's 1.7.9, of which only
# headers enter. The prefix map keeps this folder's name out of messages.
CXXFLAGS="-std=c++17 -O1 -fPIE -pthread -w -Iinclude -Isrc
-isystem /usr/include/$(gcc -print-multiarch)/openblas-pthread -ffile-prefix-map=/tmp/kaldi=kaldi
-DKALDI_DOUBLEPRECISION=0 -DHAVE_EXECINFO_H=1 -DHAVE_CXXABI_H -DHAVE_OPENBLAS -DOPENFST_VER=10709"
export CXXFLAGS

mkdir objects
for name in $sources; do echo "$name"; done > units
for name in $programs; do echo "featbin/$name"; done >> units
xargs -P "${JOBS:-1}" -I{} sh -c '
    echo "compiling {}" && g++ $CXXFLAGS -c "src/{}.cc" -o "objects/$(echo {} | tr / -).o" || exit 255' < units

mkdir -p /run/out/usr/local/bin /run/out/usr/local/share/doc/kaldi
for name in $programs; do mv "objects/featbin-$name.o" "$name.o"; done
for name in $programs; do
    # Sections that nothing refers to go, and with them every library that only they would need.
    g++ -pie -pthread -Wl,--gc-sections -Wl,--as-needed -Wl,--build-id=none -s "$name.o" objects/*.o \
        -lopenblas -lm -ldl -o "/run/out/usr/local/bin/$name"
done
cp COPYING /run/out/usr/local/share/doc/kaldi/COPYING

# In dpkg's form, so that the probe of an image finds what is in it. The archive's folder is named after its commit.
commit=$(tar -tzf /run/in/sources/kaldi | sed -n '1s|^kaldi-\([0-9a-f]*\)/.*|\1|p')
mkdir -p /run/out/var/lib/dpkg/status.d
printf 'Package: kaldi\nStatus: install ok unpacked\nVersion: %s+git%s\nDescription: %s\n' \
    "$(head -n 1 src/.version)" "$commit" "compiled from source with OpenBLAS: $programs" \
    > /run/out/var/lib/dpkg/status.d/built-kaldi
