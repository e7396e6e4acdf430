# The functions of nixpkgs' library that are used here, written anew from what their documentation says.
let
  lib = {
    inherit (builtins) attrNames attrValues;
    importTOML = path: builtins.fromTOML (builtins.readFile path);
    nameValuePair = name: value: { inherit name value; };
    genAttrs = names: f: builtins.listToAttrs (map (name: lib.nameValuePair name (f name)) names);
    mapAttrs' = f: set: builtins.listToAttrs (map (name: f name set.${name}) (builtins.attrNames set));
    mapAttrsToList = f: set: map (name: f name set.${name}) (builtins.attrNames set);
    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: values: if condition then values else [ ];
    hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
    removePrefix =
      prefix: text:
      if lib.hasPrefix prefix text then
        builtins.substring (builtins.stringLength prefix) (builtins.stringLength text - builtins.stringLength prefix) text
      else
        text;
    optionalAttrs = condition: set: if condition then set else { };
    recursiveUpdate =
      left: right:
      left
      // builtins.mapAttrs (
        name: value:
        if builtins.isAttrs value && builtins.isAttrs (left.${name} or null) then lib.recursiveUpdate left.${name} value else value
      ) right;

    # Modules: an option is its declaration, and what does not hold is nothing.
    mkOption = declaration: declaration // { _type = "option"; };
    mkEnableOption =
      what:
      lib.mkOption {
        type = lib.types.bool;
        default = false;
        description = what;
      };
    mkIf = condition: value: if condition then value else { };
    literalExpression = text: { inherit text; };
    types = {
      bool = builtins.isBool;
      str = builtins.isString;
      port = value: builtins.isInt value && value >= 0 && value < 65536;
      package = value: value ? outPath;
      nullOr = type: value: value == null || type value;
      attrsOf = type: value: builtins.isAttrs value && builtins.all type (builtins.attrValues value);
      submodule = { freeformType }: freeformType;
    };

    fileset = {
      unions = paths: assert builtins.all builtins.pathExists paths; paths;
      toSource = { root, fileset }: builtins.seq (builtins.length fileset) root;
    };
    licenses = {
      mit = "MIT";
      asl20 = "Apache-2.0";
    };
    platforms.linux = [ "x86_64-linux" "aarch64-linux" ];
  };
in
lib
