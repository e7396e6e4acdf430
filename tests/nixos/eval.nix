# What the module makes of `settings` (an expression for services.snowbank): the file, and the units. As JSON for tests/it/deploy.rs.
{ services }:
let
  lib = import ./nixpkgs/lib.nix;
  pkgs = import ./nixpkgs/pkgs.nix "x86_64-linux";
  # A file that shows what is in it instead of where it is.
  shown = pkgs // {
    formats.toml = options: (pkgs.formats.toml options) // {
      generate = name: set: "FILE<${((pkgs.formats.toml options).generate name set).text}>";
    };
  };
  module = import ../../deploy/nixos/module.nix {
    inherit lib config;
    pkgs = shown;
  };
  # Given, or by default; of the declared type; and nothing that is not declared.
  valued =
    at: options: given:
    if (options._type or null) == "option" then
      let
        v = if given != null then given else options.default or (throw "${at} is not set");
      in
      if options.type v then v else throw "${at} is of another type"
    else
      let
        unknown = builtins.attrNames (builtins.removeAttrs (if given == null then { } else given) (builtins.attrNames options));
      in
      if unknown != [ ] then throw "${at}: no such option: ${builtins.head unknown}"
      else builtins.mapAttrs (name: option: valued "${at}.${name}" option (if given == null then null else given.${name} or null)) options;
  config.services = {
    snowbank = valued "services.snowbank" module.options.services.snowbank services.snowbank;
    nix-serve.port = 5000;
  };
in
{
  systemd = module.config.systemd or null;
  networking = module.config.networking or null;
  services = module.config.services or null;
  described = builtins.all (option: option ? description || option ? enable) (builtins.attrValues module.options.services.snowbank);
}
