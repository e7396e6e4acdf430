//! Where the library is.

use std::path::PathBuf;

use crate::nix::signature::PublicKey;
use crate::options::{Mistakes, Period, Table as _, Value as _, key};
use crate::upstream::options::{CredentialsFrom, Name, Setting, UpstreamUrl, WhenDown};
use crate::upstream::{self, LIBRARY};

crate::options! {
    /// A durable cache that several of these servers share: a bucket or a directory in the layout of a plain binary cache. It is
    /// asked before the upstreams, and what comes from them is written into it in the background, once it is verified: so each
    /// path is fetched from the internet once for all servers, and one that starts empty warms from here. Of what it has nothing is
    /// believed that no key vouches for, those of the upstreams or your own; what is damaged in it is fetched from the upstreams and
    /// replaced. It never holds anything of `private` upstreams, nothing unsigned, and neither logs nor listings. How long
    /// things stay in it is decided by the bucket's lifecycle rules; let them remove incomplete uploads too.
    pub struct Options {
        /// Where it is, as `url` of an upstream: "s3://bucket?endpoint=…&region=…", or a directory, "file:///srv/library", which must
        /// be there.
        pub url: UpstreamUrl,
        /// Whether it is written to. With false it is only read, with keys that may read only: by servers that are not to
        /// be trusted with what all of them serve.
        pub write: bool = true,
        /// Further keys that what is in it may be signed with, besides those of the public upstreams and those that this server signs
        /// with: one of yours that was replaced, or another server's. They count for the library and for no upstream.
        pub public_keys: Vec<PublicKey> = Vec::new(),
        /// A file with the keys for the bucket, as `credentials_file` of an upstream.
        pub credentials_file: Option<PathBuf> = None,
        /// Where the keys for the bucket come from without a `credentials_file`, as `credentials` of an upstream.
        pub credentials: CredentialsFrom = CredentialsFrom::Auto,
        /// A file of PEM certificates to trust besides those the system trusts, as `ca_file` of an upstream.
        pub ca_file: Option<PathBuf> = None,
        /// The proxy through which the bucket is asked, as `proxy` of an upstream.
        pub proxy: Option<Setting> = None,
        /// Whether a large NAR is asked for in parts, as `parallel` of an upstream; `false` for a bucket that is paid by the request.
        pub parallel: bool = true,
        /// How long it may take to answer whether it has a path; connecting is part of it. Who waits longer several times in a row
        /// leaves it alone for some seconds.
        pub timeout: Period = Period::seconds(2),
    }
}

impl Options {
    /// As the upstream that it is read as, whose narinfos need a signature by one of these keys, or of its own.
    ///
    /// # Errors
    /// Never, in practice: what was accepted here is accepted there.
    pub fn as_upstream(&self, keys: Vec<PublicKey>) -> Result<upstream::Options, Mistakes> {
        let mut mistakes = Mistakes::default();
        let mut table = toml::Table::new();
        table.extend(self.url.write().map(|url| ("url".to_owned(), url)));
        let Some(mut options) = upstream::Options::read_table(table, "library", &mut mistakes) else {
            return Err(mistakes);
        };
        options.name = LIBRARY.parse::<Name>().ok();
        let more: Vec<_> = self.public_keys.iter().filter(|key| !keys.contains(key)).cloned().collect();
        options.public_keys = [keys, more].concat();
        options.when_down = WhenDown::Miss;
        options.credentials_file.clone_from(&self.credentials_file);
        options.credentials = self.credentials;
        options.ca_file.clone_from(&self.ca_file);
        options.proxy.clone_from(&self.proxy);
        options.parallel = self.parallel;
        options.narinfo_timeout = self.timeout;
        // The upstreams have the same: who waits here for longer than a question takes waits in vain.
        options.connect_timeout = self.timeout;
        options.response_timeout = Period(self.timeout.0 * 2);
        options.stall_timeout = Period(self.timeout.0 * 5);
        if mistakes.is_empty() { Ok(options) } else { Err(mistakes) }
    }

    /// Checks what one value alone cannot show; `at` is the table's place, `keys` how many keys there are that narinfos may be
    /// signed with.
    pub fn check(&self, at: &str, keys: usize, mistakes: &mut Mistakes) {
        if self.url.is_http() {
            let accepted =
                "a bucket such as \"s3://bucket?region=eu-west-1\", or a directory such as \"file:///srv/library\"";
            mistakes.refuse(&key(at, "url"), &format!("\"{}\"", self.url), accepted);
            return;
        }
        if keys == 0 && self.public_keys.is_empty() {
            let why = "nothing that is in it could be believed: no public upstream has `public_keys`, and sign.key_files has no key";
            mistakes.say(at, why);
        }
        if let Ok(options) = self.as_upstream(vec![]) {
            options.check_place(at, mistakes);
        }
        if self.timeout.0.is_zero() {
            mistakes.refuse(&key(at, "timeout"), &format!("\"{}\"", self.timeout), "more than \"0 ms\"");
        }
    }

    /// Checks the files that are named, the way they are loaded; `at` is the table's place.
    pub fn check_files(&self, at: &str, mistakes: &mut Mistakes) {
        if let Ok(options) = self.as_upstream(vec![]) {
            options.check_files(at, mistakes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str, keys: usize) -> Vec<String> {
        let mut mistakes = Mistakes::default();
        Options::from_toml(text).unwrap().check("library", keys, &mut mistakes);
        mistakes.lines().iter().map(|line| line.trim_start_matches(": ").to_owned()).collect()
    }

    #[test]
    fn a_library_is_a_bucket_or_a_directory_whose_contents_can_be_believed() {
        for text in ["url = 's3://a?endpoint=http://b'\ncredentials = 'instance'", "url = 'file:///srv/library'"] {
            assert_eq!(mistakes(text, 1), [""; 0], "{text}");
        }
        for (text, keys, told) in [
            ("url = 'https://cache.example.org'", 1, "library.url"),
            ("url = 'file:///srv/library'", 0, "library: nothing that is in it could be believed"),
            ("url = 'file:///srv/library'\ncredentials_file = '/keys'", 1, "library.credentials_file"),
            ("url = 's3://a?profile=x'", 1, "library.credentials_file"),
            ("url = 's3://a'\ntimeout = '0 s'", 1, "library.timeout"),
        ] {
            let mistakes = mistakes(text, keys);
            assert!(mistakes.len() == 1 && mistakes[0].starts_with(told), "{text}: {mistakes:?}");
        }
    }

    #[test]
    fn it_is_read_as_an_upstream_that_is_never_waited_for_long() {
        let options = Options::from_toml("url = 's3://a/b?region=x'\ntimeout = '1 s'\nca_file = '/ca'").unwrap();
        let read = options.as_upstream(vec![]).unwrap();
        assert_eq!((read.display_name().as_str(), read.when_down, read.url), (LIBRARY, WhenDown::Miss, options.url));
        assert_eq!((read.narinfo_timeout, read.response_timeout), (Period::seconds(1), Period::seconds(2)));
        assert_eq!(read.ca_file, options.ca_file);
        assert!(!read.private);
    }
}
