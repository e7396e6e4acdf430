//! The commands that make keys and tell their public half.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use zeroize::Zeroizing;

use crate::nix::signature::PublicKey;
use crate::proxy::sign::key_file;
use crate::proxy::sign::secret_key::SecretKey;

/// What to say about a key that was made.
pub(super) struct Made {
    /// The result: the secret key, or the public one where the secret one is in a file.
    pub(super) text: Zeroizing<String>,
    /// What to do with it.
    pub(super) hint: String,
}

/// Makes a key, in this file where one is given.
///
/// # Errors
/// On one line: a name that cannot be one, a file that is there already or cannot be made.
pub(super) fn generate(name: &str, file: Option<&Path>) -> Result<Made, String> {
    let key = SecretKey::generate(name).map_err(|error| error.to_string())?;
    // Of its final size, so that no copy of the secret stays behind.
    let secret = key.to_text();
    let mut line = Zeroizing::new(String::with_capacity(secret.len() + 1));
    line.push_str(&secret);
    line.push('\n');
    let Some(file) = file else {
        let hint = "Keep this secret, in a file with mode 600: whoever has it can sign for you. \
                    `snowbank public-key FILE` prints what clients need.\n";
        return Ok(Made { text: line, hint: hint.to_owned() });
    };
    write(file, line.as_bytes()).map_err(|error| format!("{:?}: {}", file.display().to_string(), told(&error)))?;
    let hint = format!(
        "The secret key is in {:?}; keep it so. This is the public key, for trusted-public-keys of the clients:\n",
        file.display().to_string()
    );
    Ok(Made { text: Zeroizing::new(format!("{}\n", key.public())), hint })
}

/// Makes a file that nobody else can read at any moment, and never one that was there before.
fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    let written = opened.write_all(bytes).and_then(|()| opened.sync_all());
    if written.is_err() {
        // Half a key is none; what went wrong with the file is told anyway.
        let _ = std::fs::remove_file(file);
    }
    written
}

fn told(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AlreadyExists => "there is such a file already, and it is left as it is".to_owned(),
        _ => format!("cannot be made: {error}"),
    }
}

/// The public half of the key in this file, `-` being stdin. Who else can read the file does not matter for that.
///
/// # Errors
/// On one line: a file that cannot be read or holds no secret key.
pub(super) fn public(file: &Path) -> Result<PublicKey, String> {
    let key = if file == Path::new("-") {
        // Not through `Stdin`, whose buffer would keep the secret.
        let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(|error| format!("stdin: {error}"))?;
        key_file::load_from(&mut std::fs::File::from(stdin), "-")
    } else {
        key_file::load_unguarded(file)
    };
    key.map(|key| key.public()).map_err(|error| error.to_string())
}
