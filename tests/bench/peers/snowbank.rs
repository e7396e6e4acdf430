//! snowbank as it comes, with the bounds of the case; without access log, and without fetching ahead where a case is not about that.

use super::Place;
use std::fs;

/// What its log says when the disk tier is in use.
pub const DISK_OPEN: &str = "disk tier open";

pub fn configure(place: &Place<'_>) -> Vec<String> {
    let Place { tls, plain, origin, public_key, prefetch, .. } = place;
    let text = format!(
        r#"
[[listen]]
address = "127.0.0.1:{tls}"

[[listen]]
address = "127.0.0.1:{plain}"
tls = false

[[upstream]]
url = "http://127.0.0.1:{origin}"
public_keys = ["{public_key}"]
connections = 256                        # as many as nginx keeps
parallel = true

[store]
dir = "{dir}"
memory = "{memory} B"
disk = "{disk} B"

[cache]
negative_ttl = "60 s"
prefetch = "{prefetch}"

[tls]
names = ["localhost"]
cert_file = "{certificate}"
key_file = "{key}"

[log]
access = false
"#,
        dir = place.dir.join("store").display(),
        memory = place.tiers.memory,
        disk = place.tiers.disk,
        certificate = place.certificate.display(),
        key = place.key.display(),
    );
    let file = place.dir.join("snowbank.toml");
    fs::write(&file, text).expect("a configuration");
    ["serve", "--config"].map(str::to_owned).into_iter().chain([file.display().to_string()]).collect()
}
