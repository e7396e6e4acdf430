# Packages by name alone: derivations that nobody builds.
system:
let
  lib = import ./lib.nix;
  named =
    name: more:
    derivation {
      inherit name system;
      builder = "/no/such/builder";
    }
    // more;
  # Text as TOML: what TOML shares with JSON, and tables on one line.
  value =
    v:
    if builtins.isAttrs v then
      "{ ${builtins.concatStringsSep ", " (lib.mapAttrsToList (name: v: "${name} = ${value v}") v)} }"
    else if builtins.isList v then
      "[ ${builtins.concatStringsSep ", " (map value v)} ]"
    else
      builtins.toJSON v;
  pkgs = lib.genAttrs [ "cmake" "clippy" "rustfmt" "rust-analyzer" "hello" "snowbank" ] (name: named name { }) // {
    inherit lib;
    callPackage = path: more: let f = import path; in f (builtins.intersectAttrs (builtins.functionArgs f) pkgs // more);
    rustPlatform.buildRustPackage =
      what:
      assert builtins.pathExists what.cargoLock.lockFile && builtins.pathExists what.src;
      named "${what.pname}-${what.version}" { inherit (what) meta; };
    mkShell = what: named "shell" { parts = what.inputsFrom ++ what.packages; };
    testers.runNixOSTest = what: named "vm-test-${what.name}" { inherit (what) nodes testScript; };
    formats.toml = _: {
      type = builtins.isAttrs;
      generate = name: set: {
        outPath = "/etc/${name}";
        text = builtins.concatStringsSep "" (lib.mapAttrsToList (name: v: "${name} = ${value v}\n") set);
      };
    };
  };
in
pkgs
