//! Whose keys requests to a bucket are signed with: those of a file, of the environment, of the machine, or nobody's.
//!
//! Keys that expire are fetched anew before they do; a request waits for that within its budget. No key is in a `Debug`, a
//! log or an error.

use std::path::Path;
use std::sync::Arc;

use object_store::RetryConfig;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider};

use super::connector::Connector;
use super::profile::Profile;
use crate::telemetry;
use crate::upstream::error::Cause;
use crate::upstream::options::{CredentialsFrom, Options};
use crate::upstream::secret_file::SecretFile;
use crate::upstream::url::{BucketName, Place};

/// See the module.
#[derive(Debug)]
pub(super) enum Keys {
    /// Requests are not signed.
    None,
    /// `credentials_file`.
    File(Arc<SecretFile<Profile>>),
    /// Whoever gives them out.
    Provided { by: &'static str, provider: AwsCredentialProvider },
}

/// What `object_store` is told of the environment.
const VARIABLES: [&str; 10] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];
/// Where instance metadata is, if it is not at the usual address.
const METADATA: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
/// Where STS is asked for keys, if that is not the bucket's region.
const REGION: &str = "AWS_REGION";

impl Keys {
    /// Blocking: reads the file.
    ///
    /// # Errors
    /// The file cannot be used, or the environment names half a key, with the reason in words.
    pub(super) fn new(options: &Options, bucket: &BucketName) -> Result<Self, String> {
        Self::with_environment(options, bucket, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    pub(super) fn with_environment(
        options: &Options,
        bucket: &BucketName,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let builder = AmazonS3Builder::new();
        let (by, builder) = match (&options.credentials_file, options.credentials) {
            (Some(path), _) => return load(options.display_name(), bucket, path),
            (None, CredentialsFrom::Anonymous) => return Ok(Self::None),
            (None, CredentialsFrom::Instance) => (
                "the keys of its instance's role",
                match variable(METADATA) {
                    Some(endpoint) => builder.with_metadata_endpoint(endpoint.trim_end_matches('/')),
                    None => builder,
                },
            ),
            (None, CredentialsFrom::Auto) => match named(variable) {
                Some(by) => (by, from_environment(builder, variable)?),
                None => return Ok(Self::None),
            },
        };
        let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let region = variable(REGION).unwrap_or_else(|| bucket.region.clone());
        let built = builder
            .with_bucket_name(&bucket.name)
            .with_region(region)
            .with_retry(once)
            .with_http_connector(Connector::new(options.ca_file.as_deref(), options.connect_timeout.0)?)
            .build();
        let built = built.map_err(|error| format!("{by} cannot be used: {}", told(&error)))?;
        Ok(Self::Provided { by, provider: Arc::clone(built.credentials()) })
    }

    /// What they are in words that follow "refused", if there are any.
    pub(super) fn shown(&self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::File(_) => Some("the keys from its credentials_file"),
            Self::Provided { by, .. } => Some(by),
        }
    }

    /// The keys to sign with now; `None` to ask without.
    pub(super) async fn current(&self) -> Result<Option<Arc<AwsCredential>>, Cause> {
        match self {
            Self::None => Ok(None),
            Self::File(file) => Ok(file.current().await),
            Self::Provided { by, provider } => match provider.get_credential().await {
                Ok(keys) => Ok(Some(keys)),
                Err(error) => Err(Cause::Connection(format!("{by} could not be got: {}", told(&error)))),
            },
        }
    }

    /// After `refused` were refused: what to try instead, if there is something else by now.
    pub(super) async fn instead_of(&self, refused: Option<&Arc<AwsCredential>>) -> Option<Arc<AwsCredential>> {
        match self {
            Self::File(file) => file.instead_of(refused).await,
            Self::None | Self::Provided { .. } => None,
        }
    }
}

/// On one line of bounded length: part of it is the text of whoever was asked.
fn told(error: &object_store::Error) -> String {
    const MOST: usize = 300;
    telemetry::chain(error).chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST).collect()
}

fn load(upstream: String, bucket: &BucketName, path: &Path) -> Result<Keys, String> {
    Ok(Keys::File(SecretFile::load(upstream, profile(bucket), path)?))
}

fn profile(bucket: &BucketName) -> Profile {
    Profile(bucket.profile.clone().unwrap_or_else(|| "default".into()))
}

/// Checks that the keys in `credentials_file` can be used.
///
/// # Errors
/// Why not, in words.
pub(in crate::upstream) fn check(options: &Options) -> Result<(), String> {
    match (options.url.place(), &options.credentials_file) {
        (Place::Bucket(bucket), Some(path)) => SecretFile::check(&profile(bucket), path),
        _ => Ok(()),
    }
}

/// Whose keys the environment speaks of, in the order in which `object_store` looks.
fn named(variable: &dyn Fn(&str) -> Option<String>) -> Option<&'static str> {
    let all = |names: [&str; 2]| names.iter().all(|name| variable(name).is_some());
    match () {
        () if variable("AWS_ACCESS_KEY_ID").or_else(|| variable("AWS_SECRET_ACCESS_KEY")).is_some() => {
            Some("the keys from the environment")
        }
        () if all(["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"]) => Some("the keys of its web identity"),
        () if variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").is_some()
            || all(["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]) =>
        {
            Some("the keys of its container's role")
        }
        () => None,
    }
}

fn from_environment(
    mut builder: AmazonS3Builder,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<AmazonS3Builder, String> {
    for name in VARIABLES {
        if let Some(value) = variable(name) {
            let key: AmazonS3ConfigKey =
                name.to_ascii_lowercase().parse().map_err(|_| format!("{name} is not understood"))?;
            builder = builder.with_config(key, value);
        }
    }
    Ok(builder)
}
