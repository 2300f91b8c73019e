#!/bin/sh
# Installs a CANN's toolkit and its kernels (8.5 and later: ops) for the 310P into /usr/local/Ascend, and aclruntime and ais_bench beside numpy.
#
# In: /run/in/sources/*, the vendor's packages as .run or as the .zip around it, and two wheels. Out: /run/out, a tree.
# --quiet accepts the vendor's licence: the host starts this only for a user who has said that he accepts it.
set -eu
umask 022
export LC_ALL=C PYTHONDONTWRITEBYTECODE=1 HOME=/run/out/.home TMPDIR=/run/out/.tmp
prefix=/usr/local/Ascend
mkdir -p "$HOME" "$TMPDIR" /run/out/usr/local/Ascend /run/out/etc/Ascend /run/out/.bin

# The installers call pip3, which a layer of wheels does not hold as a command.
printf '#!/bin/sh\nexec python3 -m pip "$@"\n' > /run/out/.bin/pip3
chmod +x /run/out/.bin/pip3
export PATH="/run/out/.bin:$PATH"

package() {
    # The .run itself, out of a .zip where it came in one.
    case $(od -A n -t x1 -N 2 "$1") in
        *"50 4b"*)
            mkdir -p "$TMPDIR/$2"
            python3 -m zipfile -e "$1" "$TMPDIR/$2"
            set -- "$TMPDIR/$2"/*.run "$2"
            [ -f "$1" ] || { echo "build.sh: the .zip of $2 holds no .run" >&2; exit 1; }
            ;;
    esac
    cp "$1" "$TMPDIR/$2.run"
    rm -rf "${TMPDIR:?}/$2"
    chmod +x "$TMPDIR/$2.run"
}

for name in toolkit kernels; do
    package /run/in/sources/cann-$name-* "$name"
    echo "installing $name"
    "$TMPDIR/$name.run" --quiet --install --install-path="$prefix" --install-for-all
    rm "$TMPDIR/$name.run"
done
# Up to 8.4 the toolkit goes into ascend-toolkit/VERSION, from 8.5 on into cann-VERSION.
ls /run/out$prefix/ascend-toolkit/set_env.sh /run/out$prefix/cann*/set_env.sh 2> /dev/null | grep -q . || {
    echo "build.sh: no set_env.sh was installed" >&2
    exit 1
}

site=$(python3 -c 'import numpy, os; print(os.path.dirname(os.path.dirname(numpy.__file__)))')
mkdir -p "/run/out$site"
for wheel in /run/in/sources/aclruntime-* /run/in/sources/ais_bench; do
    python3 -m zipfile -e "$wheel" "/run/out$site"
done

# Where the host's driver is mounted at run time; a read-only root can get no mount points later.
mkdir -p "/run/out$prefix/driver/lib64/common" "/run/out$prefix/driver/lib64/driver" /run/out/usr/local/dcmi
mkdir -p /run/out/usr/local/bin
: > "/run/out$prefix/driver/version.info"
: > /run/out/usr/local/bin/npu-smi
rm -f /run/out/etc/ascend_install.info
: > /run/out/etc/ascend_install.info

# The vendor's programs on arm64 name a loader that a merged /usr without multilib does not have.
if [ "$(uname -m)" = aarch64 ]; then
    mkdir -p /run/out/usr/lib64
    ln -s ../lib/aarch64-linux-gnu/ld-linux-aarch64.so.1 /run/out/usr/lib64/ld-linux-aarch64.so.1
fi
# The vendor's user, by its number: the engines name it in the user database that they give to every container.
printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'HwHiAiUser:x:1000:1000:Ascend:/home/HwHiAiUser:/bin/sh' > /run/out/etc/passwd
printf '%s\n' 'root:x:0:' 'HwHiAiUser:x:1000:' > /run/out/etc/group

# What depends on when and where this ran: byte code, logs, records of the installation, this container's paths.
rm -rf "$HOME" "$TMPDIR" /run/out/.bin
find /run/out -name __pycache__ -type d -prune -exec rm -r {} +
find /run/out \( -name '*.log' -o -name 'uninstall*' -o -name '*.pyc' \) -type f -delete
grep -rlI '/run/out/' /run/out | while read -r file; do sed -i 's:/run/out/:/:g' "$file"; done
find /run/out -type l | while read -r link; do
    target=$(readlink "$link")
    case $target in /run/out/*) ln -sfn "${target#/run/out}" "$link" ;; esac
done
