# The program, from the tree that this file is in.
{
  lib,
  rustPlatform,
  cmake,
}:

let
  cargo = lib.importTOML ../../Cargo.toml;
in
rustPlatform.buildRustPackage {
  pname = cargo.package.name;
  version = cargo.package.version;

  # What it is built from, so that a change of anything else builds nothing anew.
  src = lib.fileset.toSource {
    root = ../..;
    fileset = lib.fileset.unions [
      ../../Cargo.toml
      ../../Cargo.lock
      ../../src
    ];
  };
  cargoLock.lockFile = ../../Cargo.lock;

  # For the C parts of aws-lc.
  nativeBuildInputs = [ cmake ];
  dontUseCmakeConfigure = true;

  cargoBuildFlags = [ "--bin=snowbank" ];
  # They want namespaces, a real Nix and ports; `tests/run` runs them.
  doCheck = false;

  meta = {
    description = cargo.package.description;
    license = [
      lib.licenses.mit
      lib.licenses.asl20
    ];
    mainProgram = "snowbank";
    platforms = lib.platforms.linux;
  };
}
