# services.snowbank: the units of deploy/systemd with a configuration that is written in Nix.
#
# A thin view: `settings` is the TOML file, option by option (README, Options); the rest makes those of its tables that concern the
# system, and whatever `settings` has wins over that.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib) mkOption types;
  cfg = config.services.snowbank;
  toml = pkgs.formats.toml { };

  credentials =
    cfg.credentials // lib.optionalAttrs (cfg.signingKeyFile != null) { signing-key = cfg.signingKeyFile; };
  credential = name: "/run/credentials/snowbank.service/${name}";

  nixServe = {
    url = "http://127.0.0.1:${toString config.services.nix-serve.port}";
    name = "nix-serve";
    trust = "origin"; # this machine vouches for its own store
    when_down = "miss";
  };
  cacheNixosOrg = {
    url = "https://cache.nixos.org";
    public_keys = [ "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
  };

  # A library in a directory: all that may be written besides the state directory. Not there, the service starts all the same.
  library = cfg.settings.library or { };
  shelf = lib.optional (
    lib.hasPrefix "file:///" (library.url or "") && (library.write or true)
  ) "-${lib.removePrefix "file://" library.url}";

  defaults = {
    listen = [
      { address = "fd:https"; }
      {
        address = "fd:http"; # where a CA looks
        tls = false;
        redirect = "https://${cfg.hostName}";
      }
    ];
    tls.names = [ cfg.hostName ];
    upstream = lib.optional cfg.nixServe.enable nixServe ++ [ cacheNixosOrg ];
    admin.address = "127.0.0.1:9090";
    shutdown.drain = "30 s"; # below TimeoutStopSec
  }
  // lib.optionalAttrs (cfg.signingKeyFile != null) {
    sign.key_files = [ (credential "signing-key") ];
  };
  file = toml.generate "snowbank.toml" (lib.recursiveUpdate defaults cfg.settings);
in
{
  options.services.snowbank = {
    enable = lib.mkEnableOption "snowbank, a mirror and TLS front for Nix binary caches";

    package = mkOption {
      type = types.package;
      default = pkgs.snowbank;
      defaultText = lib.literalExpression "pkgs.snowbank";
      description = "The program.";
    };

    hostName = mkOption {
      type = types.str;
      example = "cache.example.org";
      description = "The name that clients use. Its certificate is self-signed, unless `settings.tls` says where one comes from.";
    };

    settings = mkOption {
      type = types.submodule { freeformType = toml.type; };
      default = { };
      example = lib.literalExpression ''
        {
          store = { disk = "200 GiB"; memory = "4 GiB"; };
          tls.acme = { directory = "letsencrypt"; contact = [ "mailto:ops@example.org" ]; };
        }
      '';
      description = ''
        The configuration file. A list, such as `upstream` or `listen`, replaces the one that is there by default as a whole.
        The file is in the Nix store, which everybody can read: secrets are named in it, never written.

        The directory of a `library` (`file:///…`) is made writable for the service; it has to belong to a user `snowbank`, which is then
        one of the system's own (`users.users.snowbank`).
      '';
    };

    signingKeyFile = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/var/keys/cache.example.org-1";
      description = "The secret key to sign with, which root alone can read: systemd hands it to the service. Not in the Nix store.";
    };

    credentials = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = {
        token = "/var/keys/upstream-token";
      };
      description = "Further secret files, by name; `settings` finds them as `/run/credentials/snowbank.service/NAME`.";
    };

    sockets = mkOption {
      type = types.attrsOf types.port;
      default = {
        http = 80;
        https = 443;
      };
      description = "The ports that systemd opens, by the name with which `settings.listen` takes them: `fd:NAME`.";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether these ports are open to other machines.";
    };

    nixServe.enable = lib.mkEnableOption "nix-serve on this machine as the first upstream, and no longer for anybody else";
  };

  config = lib.mkIf cfg.enable {
    services.nix-serve = lib.mkIf cfg.nixServe.enable {
      enable = true;
      bindAddress = "127.0.0.1";
    };

    networking.firewall.allowedTCPPorts = lib.optionals cfg.openFirewall (lib.attrValues cfg.sockets);

    systemd.sockets = lib.mapAttrs' (
      name: port:
      lib.nameValuePair "snowbank-${name}" {
        description = "snowbank: ${name}";
        wantedBy = [ "sockets.target" ];
        listenStreams = [ (toString port) ];
        socketConfig = {
          FileDescriptorName = name;
          Backlog = 4096;
          TriggerLimitIntervalSec = 0;
          Service = "snowbank.service";
        };
      }
    ) cfg.sockets;

    systemd.services.snowbank =
      let
        sockets = map (name: "snowbank-${name}.socket") (lib.attrNames cfg.sockets);
      in
      {
        description = "snowbank, a mirror and TLS front for Nix binary caches";
        wantedBy = [ "multi-user.target" ];
        requires = sockets;
        wants = [ "network-online.target" ];
        after = sockets ++ [ "network-online.target" ];
        # Connections wait in the sockets meanwhile.
        stopIfChanged = false;
        startLimitIntervalSec = 60;
        startLimitBurst = 5;
        # Why each line is there: deploy/systemd/snowbank.service.
        serviceConfig = {
          Type = "notify-reload";
          ExecStart = "${cfg.package}/bin/snowbank serve --config ${file}";
          Sockets = sockets;
          WatchdogSec = 30;
          Restart = "on-failure";
          RestartSec = 1;
          RestartPreventExitStatus = 64;
          KillMode = "mixed";
          TimeoutStopSec = 45;
          DynamicUser = true;
          User = "snowbank";
          StateDirectory = "snowbank";
          StateDirectoryMode = "0700";
          RuntimeDirectory = "snowbank";
          UMask = "0077";
          LoadCredential = lib.mapAttrsToList (name: path: "${name}:${path}") credentials;
          LimitNOFILE = 32768;
          LimitCORE = 0;
          TasksMax = 1024;
          MemoryMax = "80%";
          CapabilityBoundingSet = "";
          AmbientCapabilities = "";
          NoNewPrivileges = true;
          PrivateUsers = true;
          RestrictSUIDSGID = true;
          SecureBits = "noroot-locked";
          ProtectSystem = "strict";
          ProtectHome = true;
          PrivateTmp = true;
          PrivateMounts = true;
          PrivateDevices = true;
          DevicePolicy = "closed";
          ProtectClock = true;
          ProtectControlGroups = true;
          ProtectHostname = true;
          ProtectKernelLogs = true;
          ProtectKernelModules = true;
          ProtectKernelTunables = true;
          ProtectProc = "invisible";
          PrivateIPC = true;
          RemoveIPC = true;
          KeyringMode = "private";
          RestrictAddressFamilies = "AF_INET AF_INET6 AF_UNIX";
          RestrictNamespaces = true;
          RestrictRealtime = true;
          LockPersonality = true;
          MemoryDenyWriteExecute = true;
          SystemCallArchitectures = "native";
          SystemCallFilter = [
            "@system-service"
            "~@privileged @resources"
          ];
          SystemCallErrorNumber = "EPERM";
        }
        // lib.optionalAttrs (shelf != [ ]) { ReadWritePaths = shelf; };
      };
  };
}
