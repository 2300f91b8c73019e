# A hook of mmdebstrap, run as root while a disk is made: ROOT USER. An ordinary user, a network, and a way in that
# needs no network: sshd on a port of virtio-serial, so that a machine without any network device is reached as well.
set -eu
root=$1 user=$2

chroot "$root" update-ca-certificates >/dev/null
chroot "$root" useradd --create-home --shell /bin/bash "$user"
chroot "$root" passwd -d root >/dev/null
install -d -m 0700 "$root/home/$user/.ssh"
cp "$root/root/.ssh/authorized_keys" "$root/home/$user/.ssh/"
chroot "$root" chown -R "$user:$user" "/home/$user/.ssh"
echo host >"$root/etc/hostname"

cat >"$root/etc/systemd/network/10-all.network" <<'X'
[Match]
Name=e*
[Network]
DHCP=ipv4
X
chroot "$root" systemctl enable systemd-networkd >/dev/null
rm -f "$root/etc/resolv.conf"
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"

printf '%s\n' 9p 9pnet_virtio >>"$root/etc/modules"
mkdir -p "$root/carried"
echo 'carried /carried 9p trans=virtio,version=9p2000.L,msize=512000,ro,nofail 0 0' >>"$root/etc/fstab"

cat >"$root/etc/systemd/system/way-in.service" <<'X'
[Unit]
Description=sshd on a port of virtio-serial
After=systemd-user-sessions.service
StartLimitIntervalSec=0
[Service]
RuntimeDirectory=sshd
ExecStart=/bin/sh -c 'exec /usr/sbin/sshd -i <>/dev/virtio-ports/ssh >&0 2>/dev/null'
Restart=always
RestartSec=2
KillMode=process
[Install]
WantedBy=multi-user.target
X
chroot "$root" systemctl enable way-in.service >/dev/null 2>&1
chroot "$root" systemctl disable ssh.service ssh.socket >/dev/null 2>&1 || true
for unit in apt-daily.timer apt-daily-upgrade.timer man-db.timer e2scrub_all.timer fstrim.timer; do
    chroot "$root" systemctl mask "$unit" >/dev/null 2>&1 || true
done
