#!/bin/sh
# Unpacks aclruntime and ais_bench beside numpy, and makes the places where the host's CANN and driver are mounted.
#
# In: /run/in/sources/*, two wheels. Out: /run/out, a tree.
set -eu
umask 022
site=$(python3 -c 'import numpy, os; print(os.path.dirname(os.path.dirname(numpy.__file__)))')
mkdir -p "/run/out$site" /run/out/usr/local/Ascend/driver/lib64 /run/out/usr/local/dcmi /run/out/usr/local/bin /run/out/etc
for wheel in /run/in/sources/aclruntime-* /run/in/sources/ais_bench; do
    python3 -m zipfile -e "$wheel" "/run/out$site"
done
: > /run/out/usr/local/Ascend/driver/version.info
: > /run/out/usr/local/bin/npu-smi
: > /run/out/etc/ascend_install.info
if [ "$(uname -m)" = aarch64 ]; then  # the vendor's programs name a loader that a merged /usr does not have
    mkdir -p /run/out/usr/lib64
    ln -s ../lib/aarch64-linux-gnu/ld-linux-aarch64.so.1 /run/out/usr/lib64/ld-linux-aarch64.so.1
fi
