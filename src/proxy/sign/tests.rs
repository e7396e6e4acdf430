use super::*;
use crate::options::Table as _;

fn key_in(dir: &Path, file: &str, name: &str) -> PathBuf {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = dir.join(file);
    let mut opened = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path).unwrap();
    opened.write_all(SecretKey::generate(name).unwrap().to_text().as_bytes()).unwrap();
    path
}

fn options(key_files: Vec<PathBuf>) -> Options {
    Options { key_files, ..Options::from_toml("").unwrap() }
}

#[test]
fn nothing_is_signed_unless_it_is_said() {
    let defaults = Options::from_toml("").unwrap();
    assert!(defaults.load().unwrap().is_empty());
    assert_eq!(defaults.upstream_signatures, UpstreamSignatures::Keep);
    assert_eq!(defaults.prove_first, ProveFirst::Unsigned);
}

#[test]
fn keys_come_in_the_order_of_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let files = vec![key_in(dir.path(), "b", "two"), key_in(dir.path(), "a", "one")];
    let names: Vec<String> = options(files).load().unwrap().iter().map(|key| key.name().to_owned()).collect();
    assert_eq!(names, ["two", "one"]);
}

#[test]
fn r4_everything_that_is_wrong_with_the_files_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (first, same) = (key_in(dir.path(), "a", "one"), key_in(dir.path(), "b", "one"));
    let missing = dir.path().join("missing");
    let options = options(vec![first.clone(), missing, same.clone()]);
    let errors: Vec<String> = options.load().unwrap_err().iter().map(ToString::to_string).collect();
    let expected = format!(
        "key file {}: the key is named one like that of {}; give each key a name of its own",
        same.display(),
        first.display()
    );
    assert_eq!((errors.len(), &errors[1]), (2, &expected), "{errors:?}");
    assert!(errors[0].ends_with("missing: cannot be opened: No such file or directory (os error 2)"), "{errors:?}");
    let mut mistakes = Mistakes::default();
    options.check_files("sign", &mut mistakes);
    assert_eq!(mistakes.lines()[1], format!("sign.key_files[2]: {expected}"));
    assert!(mistakes.lines()[0].starts_with("sign.key_files[1]: key file "));
}

#[test]
fn a_file_is_named_once() {
    let mut mistakes = Mistakes::default();
    options(vec!["/a".into(), "/b".into(), "/a".into()]).check("sign", &mut mistakes);
    assert_eq!(mistakes.lines(), ["sign.key_files[2] = \"/a\": expected each file once; this is key_files[0]"]);
}
