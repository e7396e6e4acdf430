//! The address of a bucket: `s3://bucket?endpoint=…&region=…`, as it stands in `substituters`.
//!
//! The parameters are those by which Nix finds a bucket (the settings of its `s3://` stores); all others of Nix's are the
//! client's. From them the bucket's address over HTTP is made: below the host of the endpoint (`path`), or as a host of
//! its own (`virtual`).

use url::Url;

use super::{Place, UpstreamUrl};

/// A bucket, and what requests to it are signed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketName {
    /// Its name.
    pub name: String,
    /// Its region: part of each signature, and of AWS's own address.
    pub region: String,
    /// Which section of `credentials_file` is read.
    pub profile: Option<String>,
}

const ACCEPTED: &str = "a bucket such as \"s3://bucket?region=eu-west-1\" or \
                        \"s3://bucket/prefix?endpoint=https://s3.example.org\"";
const PARAMETERS: &str = "a bucket with no other parameters than endpoint, region, profile, scheme and addressing-style, each \
                          once: Nix's other ones belong into the clients' nix.conf, and keys into `credentials_file`";
const ENDPOINT: &str =
    "a bucket whose endpoint is a host, such as \"s3.example.org:9000\", or an http or https address";
/// As Nix has it.
const REGION: &str = "us-east-1";

/// The parameters as they stand there.
#[derive(Default)]
struct Parameters {
    endpoint: Option<String>,
    region: Option<String>,
    profile: Option<String>,
    scheme: Option<String>,
    style: Option<String>,
}

impl Parameters {
    fn read(url: &Url) -> Result<Self, &'static str> {
        let mut parameters = Self::default();
        for (name, value) in url.query_pairs() {
            let place = match name.as_ref() {
                "endpoint" => &mut parameters.endpoint,
                "region" => &mut parameters.region,
                "profile" => &mut parameters.profile,
                "scheme" => &mut parameters.scheme,
                "addressing-style" => &mut parameters.style,
                _ => return Err(PARAMETERS),
            };
            if place.is_some() {
                return Err(PARAMETERS);
            }
            if value.is_empty() || value.contains(|c: char| c.is_control()) {
                return Err("a bucket whose parameters have values");
            }
            *place = Some(value.into_owned());
        }
        Ok(parameters)
    }
}

/// The bucket that `url` names, whose scheme is `s3`.
pub(super) fn parse(url: &Url) -> Result<UpstreamUrl, &'static str> {
    let name = url.host_str().unwrap_or_default();
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if name.len() > 63 || !bytes.iter().copied().all(is_name) || !ends(bytes.first()) || !ends(bytes.last()) {
        return Err(ACCEPTED);
    }
    if !url.username().is_empty() || url.password().is_some() || url.port().is_some() || url.fragment().is_some() {
        return Err(ACCEPTED);
    }
    let prefix = url.path().trim_end_matches('/');
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    if !prefix.bytes().all(is_plain) || prefix.contains("//") {
        return Err("a bucket with a prefix of letters, digits and - . _ ~ between single slashes");
    }
    let parameters = Parameters::read(url)?;
    let region = parameters.region.as_deref().unwrap_or(REGION);
    if region.len() > 63 || !region.bytes().all(is_name) {
        return Err("a bucket whose region is a word such as \"eu-west-1\"");
    }
    let (at, place) = (address(name, prefix, region, &parameters)?, region.to_owned());
    let written = match url.query() {
        Some(query) if !query.is_empty() => format!("s3://{name}{prefix}?{query}"),
        _ => format!("s3://{name}{prefix}"),
    };
    let bucket = BucketName { name: name.to_owned(), region: place, profile: parameters.profile };
    Ok(UpstreamUrl { written, at, place: Place::Bucket(bucket) })
}

/// Where it is over HTTP.
fn address(name: &str, prefix: &str, region: &str, parameters: &Parameters) -> Result<Url, &'static str> {
    let scheme = match parameters.scheme.as_deref() {
        None => "https",
        Some(scheme @ ("http" | "https")) => scheme,
        Some(_) => return Err("a bucket whose scheme is http or https"),
    };
    let endpoint = match parameters.endpoint.as_deref() {
        Some(endpoint) if endpoint.contains("://") => Url::parse(endpoint),
        Some(endpoint) => Url::parse(&format!("{scheme}://{endpoint}")),
        None => Url::parse(&format!("{scheme}://s3.{region}.{}", domain(region))),
    };
    let mut at = endpoint.map_err(|_| ENDPOINT)?;
    let is_clean =
        at.username().is_empty() && at.password().is_none() && at.query().is_none() && at.fragment().is_none();
    if !matches!(at.scheme(), "http" | "https") || !at.has_host() || !is_clean {
        return Err(ENDPOINT);
    }
    let virtual_hosted = match parameters.style.as_deref() {
        // The certificates of AWS are for one label in front of the name.
        None | Some("auto") => parameters.endpoint.is_none() && !name.contains(['.', '_']),
        Some("virtual") => true,
        Some("path") => false,
        Some(_) => return Err("a bucket whose addressing-style is auto, path or virtual"),
    };
    let root = at.path().trim_end_matches('/').to_owned();
    if virtual_hosted {
        let host = format!("{name}.{}", at.host_str().unwrap_or_default());
        at.set_host(Some(&host)).map_err(|_| ENDPOINT)?;
        at.set_path(&format!("{root}{prefix}"));
    } else {
        at.set_path(&format!("{root}/{name}{prefix}"));
    }
    Ok(at)
}

/// Under which name AWS has a region.
fn domain(region: &str) -> &'static str {
    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_found_where_nix_finds_it() {
        for (text, at) in [
            ("s3://cache", "https://cache.s3.us-east-1.amazonaws.com/"),
            ("s3://cache/", "https://cache.s3.us-east-1.amazonaws.com/"),
            ("s3://cache?region=cn-north-1", "https://cache.s3.cn-north-1.amazonaws.com.cn/"),
            ("s3://my.cache?region=eu-west-1", "https://s3.eu-west-1.amazonaws.com/my.cache/"),
            ("s3://cache/a/b/?scheme=http", "http://cache.s3.us-east-1.amazonaws.com/a/b/"),
            ("s3://cache?endpoint=minio:9000&scheme=http", "http://minio:9000/cache/"),
            ("s3://cache/p?endpoint=http://10.0.0.1:9000/&region=auto", "http://10.0.0.1:9000/cache/p/"),
            ("s3://cache?endpoint=https%3A%2F%2Fx.org%2Fs3", "https://x.org/s3/cache/"),
            ("s3://cache?endpoint=s3.org&addressing-style=virtual", "https://cache.s3.org/"),
            ("s3://cache?addressing-style=path", "https://s3.us-east-1.amazonaws.com/cache/"),
        ] {
            let url: UpstreamUrl = text.parse().unwrap();
            assert_eq!((url.base().as_str(), url.authority().contains("cache")), (at, true), "{text}");
            assert!(!url.is_plain_http());
            assert_eq!(url.to_string().parse(), Ok(url), "{text}");
        }
        let url: UpstreamUrl = "s3://cache?profile=reader".parse().unwrap();
        let Place::Bucket(bucket) = url.place() else { panic!("{url}") };
        assert_eq!((bucket.profile.as_deref(), bucket.region.as_str()), (Some("reader"), "us-east-1"));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "s3:cache",
            "s3://",
            "s3:///cache",
            "s3://-cache",
            "s3://ca%20che",
            "s3://key:secret@cache",
            "s3://cache:9000",
            "s3://cache#x",
            "s3://cache//a",
            "s3://cache/a%20b",
            "s3://cache?priority=30",
            "s3://cache?region=a&region=b",
            "s3://cache?region=",
            "s3://cache?region=a/b",
            "s3://cache?scheme=ftp",
            "s3://cache?endpoint=http://u:p@a",
            "s3://cache?endpoint=http://a?b",
            "s3://cache?endpoint=ftp://a",
            "s3://cache?endpoint=10.0.0.1&addressing-style=virtual%00",
            "s3://cache?addressing-style=sideways",
            "s3://cache?access_key=x",
        ] {
            assert!(text.parse::<UpstreamUrl>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_accepted_is_written_as_it_is_read(rest in "[a-z0-9._/?&=:%@#-]{0,30}", more in "(endpoint=|&|region=|[a-z:/.]){0,8}") {
            if let Ok(url) = format!("s3://{rest}?{more}").parse::<UpstreamUrl>() {
                proptest::prop_assert!(url.base().path().ends_with('/') && url.base().has_host());
                proptest::prop_assert_eq!(url.to_string().parse(), Ok(url));
            }
        }
    }
}
