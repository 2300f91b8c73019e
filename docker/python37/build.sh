#!/bin/sh
# Compiles CPython into /usr/local, as a shared library, for images that no distribution has the interpreter of.
#
# In: /run/in/sources/cpython, a source archive of any 3.x; JOBS, how many compilers may run at once. Out: /run/out.
# No profile-guided optimisation: its result depends on how the measured run went.
set -eu
umask 022
export LC_ALL=C PYTHONDONTWRITEBYTECODE=1

mkdir /tmp/python
cd /tmp/python
case $(od -A n -t x1 -N 2 /run/in/sources/cpython) in
    *"1f 8b"*) unpack=gzip ;;
    *) unpack=xz ;;
esac
"$unpack" -dc < /run/in/sources/cpython | tar -x --strip-components=1 --no-same-owner

# /usr/local/lib is in no default path of the loader, and images have no ld.so.cache: the programs name it themselves.
# SOURCE_DATE_EPOCH, which the container sets, is the compiler's __DATE__ in sys.version.
./configure --prefix=/usr/local --enable-shared --without-ensurepip \
    CFLAGS="-ffile-prefix-map=/tmp/python=python" LDFLAGS="-Wl,-rpath,/usr/local/lib" > configure.out
make -j "${JOBS:-1}" > make.out 2> make.err || { tail -n 60 make.err; exit 1; }
make install DESTDIR=/run/out > install.out 2>&1 || { tail -n 60 install.out; exit 1; }

cd /run/out/usr/local
version=$(ls lib | sed -n 's/^python\(3\.[0-9]*\)$/\1/p')
# Byte code holds the time of the file that it was made from; tests and what needs a screen are of no use here.
find lib -depth -name __pycache__ -exec rm -r {} +
rm -rf "lib/python$version/test" "lib/python$version/idlelib" "lib/python$version/tkinter" \
    "lib/python$version/turtledemo" "lib/python$version/lib2to3/tests" share/man bin/idle* bin/2to3*
find lib -name 'tests' -type d -prune -exec rm -r {} +
find lib -name '*.a' -exec rm {} +
# nis would need libraries that no image has.
rm -f "lib/python$version/lib-dynload/"nis.*.so
find bin lib -type f | while read -r file; do
    case $(od -A n -t x1 -N 4 "$file") in
        *"7f 45 4c 46"*) chmod u+w "$file"; strip --strip-unneeded "$file" ;;
    esac
done
mkdir -p share/doc/python ../bin
cp /tmp/python/LICENSE share/doc/python/LICENSE
ln -s "/usr/local/bin/python$version" ../bin/python3

# It must run, from where it was installed to, with the modules that wheels and stages need.
LD_LIBRARY_PATH=/run/out/usr/local/lib PYTHONHOME=/run/out/usr/local "bin/python$version" -c '
import sys, bz2, ctypes, hashlib, lzma, multiprocessing, sqlite3, ssl, zlib
print("compiled", sys.version)'
