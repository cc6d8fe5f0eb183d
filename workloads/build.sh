#!/usr/bin/env bash
# Rebuilds every module under workloads/prebuilt/ from the sources beside this script.
#
#   workloads/build.sh [DIR]       into DIR instead of workloads/prebuilt
#
# C is built where there is clang with a wasi-libc (Debian: clang, lld, wasi-libc); its module stays as it is elsewhere.
#
# Needs the targets wasm32-wasip1 and wasm32-wasip2 (`rustup target add wasm32-wasip1 wasm32-wasip2`).
# Where those cannot be had, set CARGO_WASM to a command that takes cargo's arguments and can build for them,
# e.g. CARGO_WASM="my-wasm-toolchain cargo" workloads/build.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/prebuilt}
read -ra cargo <<<"${CARGO_WASM:-cargo}"
export CARGO_TARGET_DIR=${WORKLOADS_TARGET_DIR:-$here/target}
# The same bytes wherever the sources lie.
home=${CARGO_HOME:-$HOME/.cargo}
export RUSTFLAGS="--remap-path-prefix=$here=/workloads --remap-path-prefix=$home=/cargo"

build() { # package, target, tag
  WORKLOAD_VERSION=$3 "${cargo[@]}" build --quiet --locked --release --manifest-path "$here/Cargo.toml" --package "$1" --target "$2"
  mkdir -p "$out/$1"
  cp "$CARGO_TARGET_DIR/$2/release/$1.wasm" "$out/$1/$3.wasm"
  echo "$1:$3 $(wc -c <"$out/$1/$3.wasm") bytes"
}

for service in hello storefront cart payment; do
  for tag in 1 2; do build "$service" wasm32-wasip2 "$tag"; done
done
build echo wasm32-wasip2 1
build faults wasm32-wasip2 1
build visits wasm32-wasip2 1
build relay wasm32-wasip2 1
build herald wasm32-wasip2 1
for part in album till catalogue duty; do build $part wasm32-wasip2 1; done
build job wasm32-wasip2 1
build worker wasm32-wasip1 1

# No compiler-rt: these need nothing of it, and not every wasi-libc comes with one.
build_c() { # name, tag
  mkdir -p "$out/$1"
  clang --target=wasm32-wasi -Os -nodefaultlibs -Wl,--strip-all -o "$out/$1/$2.wasm" "$here/$1/$1.c" -lc
  chmod 644 "$out/$1/$2.wasm"
  echo "$1:$2 $(wc -c <"$out/$1/$2.wasm") bytes"
}

if command -v clang wasm-ld >/dev/null; then
  build_c greet 1
else
  echo "greet:1 is not built: there is no clang with wasm-ld"
fi

# Other versions of the compiler make other bytes: a test compares only where this one is at hand.
if [ "$out" = "$here/prebuilt" ]; then "${cargo[@]}" --version >"$here/prebuilt.toolchain"; fi
