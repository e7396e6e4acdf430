//! haproxy with its cache in memory: for narinfos only. It keeps nothing but answers of 200, and no large ones.

use super::Place;
use std::fs;

pub fn configure(place: &Place<'_>) -> Vec<String> {
    let Place { tls, plain, origin, .. } = place;
    let text = format!(
        r#"
global
    nbthread 1
    maxconn 8192
    ssl-default-bind-options ssl-min-ver TLSv1.3

defaults
    mode http
    timeout connect 10s
    timeout client 10m
    timeout server 10m
    timeout http-keep-alive 10m
    option http-no-delay

cache narinfos
    total-max-size 64
    max-object-size 65536
    max-age 3600

frontend clients
    bind 127.0.0.1:{tls} backlog 4096 ssl crt {both} alpn h2,http/1.1 curves X25519
    bind 127.0.0.1:{plain} backlog 4096
    http-request cache-use narinfos
    # It caches nothing that does not say for how long.
    http-response set-header Cache-Control max-age=3600
    http-response cache-store narinfos
    default_backend origin

backend origin
    http-reuse always
    server origin 127.0.0.1:{origin} maxconn 256 pool-max-conn 256
"#,
        both = place.both.display(),
    );
    let file = place.dir.join("haproxy.cfg");
    fs::write(&file, text).expect("a configuration");
    ["-db", "-q", "-f", &file.display().to_string()].map(str::to_owned).into()
}
