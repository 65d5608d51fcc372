#!/bin/sh
# Leaves of a workspace only what cargo needs to know its dependencies: manifests, and an empty file for each target. A
# build of that is a layer of the image that stays valid until a dependency changes.
set -eu

find crates tests -type f ! -name Cargo.toml ! -name '*.rs' -delete
for manifest in crates/*/Cargo.toml tests/Cargo.toml; do
  folder=$(dirname "$manifest")
  named=$(sed -n 's/^path = "\(.*\)"$/\1/p' "$manifest")
  find "$folder" -name '*.rs' | while read -r source; do
    inside=${source#"$folder"/}
    case "$inside" in
      src/lib.rs) : >"$source" ;;
      src/main.rs | build.rs) echo 'fn main() {}' >"$source" ;;
      benches/*/* | examples/*/*) rm "$source" ;;
      # Targets that need no path in the manifest.
      benches/* | examples/*) echo 'fn main() {}' >"$source" ;;
      *)
        if printf '%s\n' "$named" | grep -qxF "$inside"; then
          case "$inside" in */lib.rs) : >"$source" ;; *) echo 'fn main() {}' >"$source" ;; esac
        else
          rm "$source"
        fi
        ;;
    esac
  done
done
find crates tests -type d -empty -delete
