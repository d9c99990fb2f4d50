#!/usr/bin/env bash
# get-guest.sh: what a test guest boots from, made out of Debian packages; prints the folder that holds it.
#
#   vmlinux      Debian's cloud kernel, uncompressed where possible: the guest starts a second earlier
#   initramfs    newc archive: busybox, iperf3, iproute2, ethtool, tcpdump, a few kernel modules, init
#   root/        the same tree unpacked; the host runs its own iperf3, ip and ping out of it
#   qemu         wrapper of the QEMU to run: $QEMU, or the machine's if 8 or newer, or one fetched here
#
# Packages are fetched with `apt-get download` and unpacked; nothing is installed. The result is kept in
# ${XDG_CACHE_HOME:-~/.cache}/vsteer/guests (or the folder named by VSTEER_GUESTS) and made again only when this
# script, init or $QEMU changed; otherwise the script returns at once and needs no network.
#
# Debian 12's own QEMU 7.2 crashes when a vhost-user NIC with MSI-X starts under TCG, and knows no reconnect-ms.
# Hence the fetch from backports on a machine that has no newer one.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${VSTEER_GUESTS:-${XDG_CACHE_HOME:-$HOME/.cache}/vsteer/guests}
tools=(busybox-static iperf3 ethtool iproute2 tcpdump kmod lz4 xz-utils)
modules=(virtio_pci virtio_net 8021q sch_ingress cls_flower cls_matchall act_mirred act_csum act_gact dummy veth)

say() { printf 'get-guest: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# missing PACKAGE...: the packages and those of their dependencies that this machine has not installed.
missing() {
  printf '%s\n' "$@"
  apt-get "${apt[@]}" install -s --no-install-recommends "$@" 2>/dev/null | awk '/^Inst /{print $2}'
}

# unpack FOLDER PACKAGE...: fetches the packages and lays their files into FOLDER.
unpack() {
  local folder=$1 deb
  shift
  mkdir -p "$folder" "$work/debs"
  (cd "$work/debs" && apt-get "${apt[@]}" -q -o APT::Sandbox::User=root download "$@") >>"$work/log" 2>&1 ||
    { tail -5 "$work/log" >&2; die "apt-get could not download $*"; }
  for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$folder"; done
  rm -r "$work/debs"
}

qemu_major() { "$1" --version 2>/dev/null | sed -n 's/^QEMU emulator version \([0-9]*\).*/\1/p'; }

# A private apt state: the machine's own Debian sources with backports beside them. /etc/apt stays as it is.
backports() {
  local code line
  code=$(. /etc/os-release && echo "$VERSION_CODENAME")
  mkdir -p "$work/apt/parts" "$work/apt/lists/partial"
  if [[ -f /etc/apt/sources.list.d/debian.sources ]]; then
    sed "s/^Suites:.*\b$code-updates\b.*/& $code-backports/" /etc/apt/sources.list.d/debian.sources \
      >"$work/apt/parts/debian.sources"
  elif line=$(grep -m1 -E "^deb .* $code( |$)" /etc/apt/sources.list); then
    printf '%s\n%s\n' "$line" "${line/ $code / $code-backports }" >"$work/apt/parts/debian.list"
  fi
  apt=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/apt/parts"
       -o "Dir::State::lists=$work/apt/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
       -o "APT::Default-Release=$code-backports")
  apt-get "${apt[@]}" -q update >>"$work/log" 2>&1 || { tail -5 "$work/log" >&2; die "no Debian backports: set QEMU to a QEMU of version 8 or newer"; }
}

fetch_qemu() {
  local packages apt=()
  say "fetching QEMU from Debian backports"
  backports
  mapfile -t packages < <(missing qemu-system-x86 qemu-system-common qemu-system-data seabios | sort -u)
  rm -rf "$1"
  unpack "$1" "${packages[@]}"
}

make_qemu() {
  local own=${QEMU:-$(command -v qemu-system-x86_64 || true)} root=$cache/qemu-root
  if [[ -n $own ]] && (( $(qemu_major "$own") >= 8 )); then
    printf '#!/bin/sh\nexec %q "$@"\n' "$own" >"$work/qemu"
  elif [[ -n ${QEMU:-} ]]; then
    die "QEMU=$QEMU is not a QEMU of version 8 or newer"
  else
    cat >"$work/qemu" <<END
#!/bin/sh
LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu
export LD_LIBRARY_PATH
exec $root/usr/bin/qemu-system-x86_64 -L $root/usr/share/qemu -L $root/usr/share/seabios "\$@"
END
    chmod +x "$work/qemu"
    # One that was fetched before is kept: it may be running.
    [[ -n $(qemu_major "$work/qemu" || true) ]] || fetch_qemu "$root"
  fi
  chmod +x "$work/qemu"
  [[ -n $(qemu_major "$work/qemu" || true) ]] || die "QEMU does not run: $("$work/qemu" --version 2>&1 | head -3)"
}

# The boot protocol's header says where in a bzImage the compressed kernel lies (Documentation/arch/x86/boot.rst).
make_vmlinux() {
  local image=$1 sectors offset length magic
  field() { od -An -v "-tu$3" -j "$2" -N "$3" "$1" | tr -d ' '; }
  sectors=$(field "$image" $((0x1f1)) 1)
  offset=$(( (sectors + 1) * 512 + $(field "$image" $((0x248)) 4) ))
  length=$(field "$image" $((0x24c)) 4)
  # The last four bytes are the unpacked size, not part of the stream.
  tail -c +$((offset + 1)) "$image" | head -c $((length - 4)) >"$work/payload" || true
  magic=$(od -An -v -tx1 -N 4 "$work/payload" | tr -d ' ')
  case $magic in
    02214c18) "$tree/usr/bin/lz4" -dc <"$work/payload" >"$work/vmlinux" ;;
    fd377a58) "$tree/usr/bin/xz" -dc <"$work/payload" >"$work/vmlinux" ;;
    1f8b*) gzip -dc <"$work/payload" >"$work/vmlinux" ;;
    *) say "kernel payload $magic: booting the compressed image"; cp "$image" "$work/vmlinux" ;;
  esac
}

# add PROGRAM TARGET: a program with every library that it needs.
add() {
  local library
  install -D -m755 "$tree/$1" "$root/$2"
  if ldd "$tree/$1" | grep 'not found' >&2; then die "$1 lacks libraries"; fi
  ldd "$tree/$1" | grep -o '/[^ ]*\.so[^ ]*' | while read -r library; do
    [[ -e $root/lib/${library##*/} ]] || cp -L "$library" "$root/lib/"
  done
}

make_root() {
  local applet module file
  mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,proc,sys,dev,tmp,run,etc,lib,lib64,var/run}
  cp "$tree/bin/busybox" "$root/bin/"
  "$root/bin/busybox" --list | while read -r applet; do
    [[ $applet == busybox ]] || ln -s busybox "$root/bin/$applet"
  done
  ln -s ../bin/busybox "$root/sbin/modprobe" # where the kernel looks when it wants a module
  add usr/bin/iperf3 bin/iperf3
  add bin/ip usr/bin/ip
  add sbin/tc usr/bin/tc
  add sbin/ethtool usr/bin/ethtool
  add usr/bin/tcpdump usr/bin/tcpdump
  ln -s ../lib/ld-linux-x86-64.so.2 "$root/lib64/"
  # Debian's tcpdump becomes the user tcpdump; here that is root.
  printf '%s:x:0:0::/:/bin/sh\n' root tcpdump >"$root/etc/passwd"
  echo 'root:x:0:' >"$root/etc/group"

  mkdir -p "$root/lib/modules/$version" "$work/modules"
  cp "$kernel/lib/modules/$version"/modules.{builtin,order} "$root/lib/modules/$version/"
  ln -s "$tree/bin/kmod" "$work/depmod"
  ln -s "$tree/bin/kmod" "$work/modprobe"
  "$work/depmod" -b "$kernel" "$version" 2>/dev/null
  for module in "${modules[@]}"; do
    "$work/modprobe" -d "$kernel" -S "$version" --show-depends "$module" || die "the kernel has no module $module"
  done | awk '$1 == "insmod" {print $2}' | sort -u | while read -r file; do
    case $file in
      *.xz) "$tree/usr/bin/xz" -dc "$file" >"$root/lib/modules/$version/$(basename "$file" .xz)" ;;
      *) cp "$file" "$root/lib/modules/$version/" ;;
    esac
  done
  "$work/depmod" -b "$root" "$version" 2>/dev/null
  install -m755 "$here/init" "$root/init"
}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
stamp=$(cat "$here/get-guest.sh" "$here/init" <(echo "${QEMU:-}") | sha256sum | cut -c1-16)
if [[ -f $cache/stamp && $(<"$cache/stamp") == "$stamp" ]] && "$cache/qemu" --version >/dev/null 2>&1; then
  echo "$cache"
  exit 0
fi

command -v apt-get >/dev/null || die "guests are made from Debian packages; this machine has no apt-get"
rm -f "$cache/stamp"
work=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
tree=$work/tools kernel=$work/kernel root=$work/root apt=()

if ! apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1; then
  apt-get -q update >>"$work/log" 2>&1 || { tail -5 "$work/log" >&2; die "apt-get update failed: run it as root once"; }
fi
say "fetching Debian's kernel and tools into $cache (about a minute, once)"
mapfile -t packages < <(missing "${tools[@]}" | sort -u)
image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -1)
[[ -n $image ]] || die "linux-image-cloud-amd64 names no kernel"
# Lists may be older than the archive: then they are read again, once.
(unpack "$tree" "${packages[@]}" && unpack "$kernel" "$image") 2>/dev/null || {
  apt-get -q update >>"$work/log" 2>&1 || true
  rm -rf "$tree" "$kernel" "$work/debs"
  image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -1)
  unpack "$tree" "${packages[@]}"
  unpack "$kernel" "$image"
}
version=${image#linux-image-}
export LD_LIBRARY_PATH=$tree/usr/lib/x86_64-linux-gnu:$tree/lib/x86_64-linux-gnu
make_vmlinux "$kernel/boot/vmlinuz-$version"
make_root
unset LD_LIBRARY_PATH
(cd "$root" && find . | sort | bin/busybox cpio -o -H newc 2>/dev/null) >"$work/initramfs"
make_qemu

rm -rf "$cache/root"
mv "$work"/{vmlinux,initramfs,qemu,root} "$cache/"
echo "$stamp" >"$cache/stamp"
say "$("$cache/qemu" --version | head -1), Linux $version"
echo "$cache"
