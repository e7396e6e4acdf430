//! Content addresses: what the `CA` field of a narinfo may say.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::nix::base32;

/// True for `text:<algorithm>:<digest>` and `fixed:[r:|git:]<algorithm>:<digest>` with a digest of the right length, as
/// Nix's `ContentAddress::parse` (`src/libstore/content-address.cc`) accepts them. Whether the content has this address
/// shows when it is unpacked; it is no ground for trust before (safety.md section 1).
pub(super) fn is_content_address(text: &str) -> bool {
    let digest = if let Some(rest) = text.strip_prefix("text:") {
        rest
    } else if let Some(rest) = text.strip_prefix("fixed:") {
        rest.strip_prefix("r:").or_else(|| rest.strip_prefix("git:")).unwrap_or(rest)
    } else {
        return false;
    };
    digest.split_once(':').is_some_and(|(algorithm, digits)| is_digest(algorithm, digits))
}

fn is_digest(algorithm: &str, digits: &str) -> bool {
    let bytes: usize = match algorithm {
        "md5" => 16,
        "sha1" => 20,
        "sha256" | "blake3" => 32,
        "sha512" => 64,
        _ => return false,
    };
    if digits.len() == bytes * 2 {
        digits.bytes().all(|b| b.is_ascii_hexdigit())
    } else if digits.len() == (bytes * 8).div_ceil(5) {
        base32::decode(digits).is_ok()
    } else {
        BASE64.decode(digits).is_ok_and(|decoded| decoded.len() == bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIX32: &str = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";

    #[test]
    fn the_forms_that_nix_writes_are_accepted() {
        for good in [
            format!("text:sha256:{NIX32}"),
            format!("fixed:sha256:{NIX32}"),
            format!("fixed:r:sha256:{NIX32}"),
            format!("fixed:git:sha1:{}", "0".repeat(32)),
            format!("fixed:md5:{}", "a".repeat(32)),
            format!("fixed:r:sha512:{}", "0".repeat(103)),
            "fixed:sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".to_owned(),
        ] {
            assert!(is_content_address(&good), "{good}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            String::new(),
            "fixed".to_owned(),
            "fixed:".to_owned(),
            format!("sha256:{NIX32}"),
            format!("text:r:sha256:{NIX32}"),
            format!("fixed:x:sha256:{NIX32}"),
            format!("fixed:r:git:sha256:{NIX32}"),
            format!("fixed:sha3:{NIX32}"),
            format!("fixed:sha1:{NIX32}"),
            format!("fixed:sha256:z{}", &NIX32[1..]),
            format!("fixed:sha256:{NIX32} "),
            format!("fixed:sha256-{NIX32}"),
        ] {
            assert!(!is_content_address(&bad), "{bad}");
        }
    }
}
