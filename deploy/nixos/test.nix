# Two machines: one with nix-serve behind snowbank, and one that gets a path from it over HTTPS, knowing snowbank's key alone.
{ pkgs, module }:

pkgs.testers.runNixOSTest {
  name = "snowbank";

  nodes.server = {
    imports = [ module ];
    services.snowbank = {
      enable = true;
      hostName = "server";
      openFirewall = true;
      nixServe.enable = true;
      signingKeyFile = "/var/keys/server-1";
      # No other upstream: there is no network.
      settings = {
        upstream = [
          {
            url = "http://127.0.0.1:5000";
            trust = "origin";
          }
        ];
        store.disk = "256 MiB";
      };
    };
    # The key is there before the service.
    system.activationScripts.snowbank-key = ''
      mkdir -p -m 0700 /var/keys
      [ -e /var/keys/server-1 ] || ${pkgs.snowbank}/bin/snowbank keygen server-1 --output /var/keys/server-1
    '';
    environment.systemPackages = [ pkgs.snowbank ];
    virtualisation.additionalPaths = [ pkgs.hello ];
  };

  nodes.client = {
    nix.settings.experimental-features = [ "nix-command" ];
  };

  testScript = ''
    start_all()
    server.wait_for_unit("snowbank.service")
    server.wait_until_succeeds("curl --fail http://127.0.0.1:9090/readyz")
    server.succeed("systemctl reload snowbank.service")
    key = server.succeed("snowbank public-key /var/keys/server-1").strip()
    ca = server.succeed("cat /var/lib/snowbank/tls/self-signed/ca.pem")
    client.succeed(f"cat > /tmp/ca.pem <<'EOF'\n{ca}\nEOF")
    client.wait_until_succeeds("curl --fail --cacert /tmp/ca.pem https://server/nix-cache-info")
    get = f"NIX_SSL_CERT_FILE=/tmp/ca.pem nix copy --from https://server --option trusted-public-keys '{key}' ${pkgs.hello}"
    client.succeed(get)
    client.succeed("${pkgs.hello}/bin/hello")
    # A restart refuses nobody: connections wait in the sockets.
    server.succeed("systemctl restart --no-block snowbank.service")
    client.succeed("curl --fail --cacert /tmp/ca.pem https://server/nix-cache-info")
    server.succeed("systemd-analyze security --threshold=15 snowbank.service")
  '';
}
