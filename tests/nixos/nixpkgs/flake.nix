{
  description = "What snowbank's flake uses of nixpkgs, as small as it goes: to evaluate it without a network";

  outputs = _: {
    lib = import ./lib.nix;
    legacyPackages =
      let
        lib = import ./lib.nix;
      in
      lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (import ./pkgs.nix);
  };
}
