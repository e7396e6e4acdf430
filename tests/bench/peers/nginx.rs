//! nginx with everything that helps it here: cache lock, kept connections to the origin, open files remembered, sendfile.
//!
//! One worker, because it has one core. The cache may grow as it likes: no case measures eviction. The lock is held for as
//! long as a fill takes; its default of 5 seconds would send every waiting client to the origin. Without `tcp_nopush`: with it, the
//! end of a NAR of 100 KB from its cache stays in the kernel for 12 ms, without TLS.

use super::Place;
use std::fs;

/// How HTTP/2 is switched on.
#[derive(Clone, Copy)]
pub enum Listen {
    /// As a word of `listen`.
    Before125,
    /// By `http2 on`.
    Since125,
}

pub fn configure(place: &Place<'_>, listen: Listen) -> Vec<String> {
    let Place { tls, plain, origin, .. } = place;
    let (word, line) = match listen {
        Listen::Before125 => ("http2", ""),
        Listen::Since125 => ("", "http2 on;"),
    };
    let text = format!(
        r#"
user root;
daemon off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid {dir}/pid;
error_log {dir}/log warn;
events {{ worker_connections 8192; multi_accept on; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    tcp_nodelay on;
    keepalive_requests 100000000;
    http2_max_concurrent_streams 256;
    open_file_cache max=20000 inactive=1h;
    open_file_cache_valid 1h;
    open_file_cache_min_uses 1;
    client_body_temp_path {dir}/body;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    proxy_temp_path {dir}/temp;
    proxy_cache_path {dir}/cache levels=1:2 keys_zone=nix:32m inactive=30d max_size=100g use_temp_path=off;

    upstream origin {{
        server 127.0.0.1:{origin};
        keepalive 256;
        keepalive_requests 100000000;
    }}

    server {{
        listen 127.0.0.1:{tls} ssl {word} backlog=4096;
        listen 127.0.0.1:{plain} backlog=4096;
        {line}
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        ssl_ecdh_curve X25519;
        ssl_session_cache shared:tls:10m;

        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffers 16 64k;
            proxy_buffer_size 64k;
            proxy_busy_buffers_size 256k;
            proxy_cache nix;
            proxy_cache_valid 200 30d;
            proxy_cache_valid 404 1m;
            proxy_cache_lock on;
            proxy_cache_lock_timeout 1h;
            proxy_cache_lock_age 1h;
            proxy_cache_use_stale error timeout updating;
            proxy_cache_background_update on;
            proxy_max_temp_file_size 4096m;
        }}
    }}
}}
"#,
        dir = place.dir.display(),
        certificate = place.certificate.display(),
        key = place.key.display(),
    );
    let file = place.dir.join("nginx.conf");
    fs::write(&file, text).expect("a configuration");
    let dir = place.dir.display().to_string();
    ["-p", &dir, "-e", &format!("{dir}/log"), "-c", &file.display().to_string()].map(str::to_owned).into()
}
