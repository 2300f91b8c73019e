#!/bin/sh
# The root of a recipe's container is read-only, and CANN writes the path that it is installed to into its files: so
# /usr/local/Ascend is a link into the recipe's output here, and in no other image.
set -eu
mkdir -p /run/out/usr/local /run/out/etc
ln -s /run/out/usr/local/Ascend /run/out/usr/local/Ascend
ln -s /run/out/etc/Ascend /run/out/etc/Ascend
ln -s /run/out/etc/ascend_install.info /run/out/etc/ascend_install.info
echo "/usr/local/Ascend leads into a recipe's output; see docker/cann-prefix" > /run/out/usr/local/Ascend.link
