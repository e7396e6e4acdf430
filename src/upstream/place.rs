//! Which options an upstream of each kind has: what can mean nothing to a bucket or a directory is refused, not ignored.

use super::bucket;
use super::options::{CredentialsFrom, Options, UpstreamUrl};
use super::url::Place;
use crate::options::{Mistakes, key};

/// Checks the options of the upstream whose table is at `at` against what its address leads to.
pub(super) fn check(options: &Options, at: &str, mistakes: &mut Mistakes) {
    let is_chosen = options.credentials != CredentialsFrom::Auto;
    let of_bucket = [("credentials_file", options.credentials_file.is_some()), ("credentials", is_chosen)];
    match options.url.place() {
        Place::Http => refuse(&of_bucket, BUCKET_ONLY, at, mistakes),
        Place::Bucket(bucket) => {
            refuse(&of_http(options), &with(&options.url, HTTP_IN_BUCKET), at, mistakes);
            if options.credentials_file.is_some() && is_chosen {
                let accepted = "\"auto\", because credentials_file is given";
                mistakes.refuse(&key(at, "credentials"), &format!("\"{}\"", options.credentials), accepted);
            }
            if bucket.profile.is_some() && options.credentials_file.is_none() {
                mistakes.missing(&key(at, "credentials_file"), "the file with the `profile` of `url`");
            }
        }
        Place::Directory(_) => {
            let more = [
                ("proxy", options.proxy.is_some()),
                ("ca_file", options.ca_file.is_some()),
                ("client_cert_file", options.client_cert_file.is_some()),
                ("client_key_file", options.client_key_file.is_some()),
                ("forbidden", options.forbidden.is_some()),
            ];
            let all: Vec<Given> = of_http(options).into_iter().chain(of_bucket).chain(more).collect();
            refuse(&all, &with(&options.url, NOT_IN_DIRECTORY), at, mistakes);
        }
    }
}

/// Checks the files that only a bucket has, the way they are loaded.
pub(super) fn check_files(options: &Options, at: &str, mistakes: &mut Mistakes) {
    if let Err(why) = bucket::check(options) {
        mistakes.say(&key(at, "credentials_file"), &why);
    }
}

/// An option, and whether it is given.
type Given = (&'static str, bool);

const BUCKET_ONLY: &str = "this is for a bucket (`url = \"s3://…\"`); an http or https upstream takes netrc_file, token_file, \
                           or user and password_file";
const HTTP_IN_BUCKET: &str =
    "is a bucket: it takes credentials_file, or credentials, and its address from `endpoint` in `url`";
const NOT_IN_DIRECTORY: &str = "is a directory: it is read as the user that this program runs as";

fn with(url: &UpstreamUrl, what: &str) -> String {
    format!("this is for an http or https upstream, and {url} {what}")
}

/// How a server is reached and what it is shown.
fn of_http(options: &Options) -> [Given; 5] {
    [
        ("socket", options.socket.is_some()),
        ("netrc_file", options.netrc_file.is_some()),
        ("token_file", options.token_file.is_some()),
        ("user", options.user.is_some()),
        ("password_file", options.password_file.is_some()),
    ]
}

fn refuse(given: &[Given], why: &str, at: &str, mistakes: &mut Mistakes) {
    for (name, _) in given.iter().filter(|(_, given)| *given) {
        mistakes.say(&key(at, name), why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Table as _;

    /// The keys that are refused.
    fn refused(url: &str, lines: &str) -> Vec<String> {
        let mut mistakes = Mistakes::default();
        let options = Options::from_toml(&format!("url = '{url}'\ntrust = 'origin'\n{lines}")).unwrap();
        options.check("u", &mut mistakes);
        mistakes.lines().iter().map(|line| line[2..line.find([':', ' ']).unwrap()].to_owned()).collect()
    }

    #[test]
    fn what_means_nothing_to_a_place_is_refused() {
        let server = "socket = '/s'\nnetrc_file = '/n'";
        let (file, ca) = ("credentials_file = '/c'", "proxy = 'none'\nca_file = '/ca'\nforbidden = 'have-not'");
        let all = format!("{server}\n{file}\n{ca}");
        assert_eq!(refused("http://a", &all), ["credentials_file"]);
        assert_eq!(refused("s3://a", &all), ["socket", "netrc_file"]);
        assert_eq!(
            refused("file:///a", &all),
            ["socket", "netrc_file", "credentials_file", "proxy", "ca_file", "forbidden"]
        );
        assert_eq!(refused("http://a", "credentials = 'anonymous'"), ["credentials"]);
        assert_eq!(refused("file:///a", "credentials = 'instance'"), ["credentials"]);
        for fine in ["", "credentials = 'anonymous'", "credentials = 'instance'", "credentials_file = '/c'"] {
            assert!(refused("s3://a", fine).is_empty(), "{fine}");
        }
        assert_eq!(refused("s3://a", "credentials = 'instance'\ncredentials_file = '/c'"), ["credentials"]);
        assert_eq!(refused("s3://a?profile=b", ""), ["credentials_file"]);
        assert!(refused("file:///a", "connections = 4").is_empty());
    }
}
