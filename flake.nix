{
  description = "snowbank: pull-through mirror and TLS front for Nix binary caches";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      each = f: nixpkgs.lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: f nixpkgs.legacyPackages.${system});
      package = pkgs: pkgs.callPackage ./deploy/nixos/package.nix { };
    in
    {
      packages = each (pkgs: {
        default = package pkgs;
        snowbank = package pkgs;
      });

      overlays.default = final: prev: { snowbank = package final; };

      apps = each (pkgs: {
        default = {
          type = "app";
          program = "${package pkgs}/bin/snowbank";
        };
      });

      devShells = each (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ (package pkgs) ];
          packages = [
            pkgs.clippy
            pkgs.rustfmt
            pkgs.rust-analyzer
          ];
        };
      });

      nixosModules.default = {
        imports = [ ./deploy/nixos/module.nix ];
        nixpkgs.overlays = [ self.overlays.default ];
      };

      checks = each (pkgs: {
        package = package pkgs;
        nixos = import ./deploy/nixos/test.nix {
          inherit pkgs;
          module = self.nixosModules.default;
        };
      });
    };
}
