//! Private upstreams: what they have is there for who may see it and for nobody else, and nobody else can tell (R15).
//!
//! "Cannot tell" is a table: each thing that can be asked for of a path, by each way of asking, is answered as for a path
//! that nobody has, byte for byte, with the same questions to upstreams and the same looks into the store.

mod leaks;
mod nix;
mod ways;

use std::path::PathBuf;

use crate::support::cache::{Key, Object};
use crate::support::client::{Response, Target};
use crate::support::origin::{Origin, Reply};
use crate::support::snowbank::{Setup, run};

/// A token as `snowbank token` makes it.
struct Token {
    /// The line for the server's file.
    line: String,
    /// The secret.
    text: String,
}

impl Token {
    fn new(name: &str) -> Self {
        let made = run(&["token", name]);
        assert!(made.status.success(), "{made:?}");
        let text = String::from_utf8(made.stdout).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        let [line, netrc] = lines[..] else { panic!("two lines: {text}") };
        let secret = netrc.rsplit(' ').next().expect("a password");
        assert_eq!(netrc, format!("machine CACHE login {name} password {secret}"));
        assert!(line.starts_with(&format!("{name}:")) && !line.contains(secret), "{text}");
        Self { line: line.to_owned(), text: secret.to_owned() }
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.text)
    }

    fn basic(&self) -> String {
        use base64::Engine as _;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("somebody:{}", self.text)))
    }
}

/// A public upstream, a private one called `work` that is asked first, and a token for it.
struct Office {
    public: Origin,
    work: Origin,
    key: Key,
    token: Token,
    setup: Setup,
}

impl Office {
    fn new() -> Self {
        let (public, work, key) = (Origin::start(), Origin::start(), Key::new("office-1"));
        let token = Token::new("ci");
        // The scrubber would be counted among those who look into the store.
        let setup = Setup::new().store("disk = \"256 MiB\"\nmemory = \"64 MiB\"\nscrub = \"0 s\"");
        let file = setup.home().join("tokens");
        std::fs::write(&file, &token.line).expect("a file of tokens");
        let keys = format!("public_keys = [{:?}]", key.public());
        let setup = setup
            .upstream_with(&public.url(), &format!("name = \"public\"\n{keys}"))
            .upstream_with(&work.url(), &format!("name = \"work\"\nprivate = true\npriority = 1\n{keys}"))
            .also(&format!("[[access]]\nupstreams = [\"work\"]\ntoken_files = [{file:?}]"));
        Self { public, work, key, token, setup }
    }

    fn tokens(&self) -> PathBuf {
        self.setup.home().join("tokens")
    }

    /// Everything that a cache can have of a path, at the private upstream.
    fn publish(&self, object: &Object) {
        self.work.publish(object, &self.key);
        for target in smalls(object) {
            self.work.serve(&target, Reply::bytes(format!("{{\"of\":\"{target}\"}}")).without_ranges());
        }
    }

    async fn get(&self, client: &Target, target: &str) -> Response {
        client.get_with(target, &[("Authorization", &self.token.bearer())]).await
    }
}

/// Everything small of a path.
fn smalls(object: &Object) -> Vec<String> {
    let (hash, base) = (object.hash_part(), &object.base_name);
    let hex: String = hash.bytes().map(|byte| format!("{byte:02x}")).collect();
    vec![
        format!("/{hash}.ls"),
        format!("/log/{base}.drv"),
        format!("/realisations/sha256:{hex}!out.doi"),
        format!("/build-trace-v2/{base}.drv/out.doi"),
        format!("/debuginfo/{}", &hex[..40]),
    ]
}

/// Every URL by which the NAR of a path may be asked for.
fn nars(object: &Object) -> Vec<String> {
    let (hash, nar_hash) = (object.hash_part(), object.nar_hash());
    vec![
        object.served_target(),
        format!("/nar/{}.nar", object.file_hash()),
        object.file_target(),
        format!("/nar/{hash}.nar"),
        format!("/nar/{nar_hash}.nar?hash={hash}"),
    ]
}

/// Everything of a path.
fn targets(object: &Object) -> Vec<String> {
    [vec![object.narinfo_target()], nars(object), smalls(object)].concat()
}
