//! Every configuration in the tree is accepted by the program.

use super::{Machine, text, tree};

#[test]
fn every_example_is_accepted() {
    let machine = Machine::new();
    let mut files: Vec<String> = std::fs::read_dir(tree("config"))
        .expect("the examples")
        .map(|entry| format!("config/{}", entry.expect("an entry").file_name().to_string_lossy()))
        .collect();
    files.sort_unstable();
    assert!(files.len() >= 7, "{files:?}");
    for overlay in ["acme", "cert-manager", "replicas"] {
        files.push(format!("deploy/kubernetes/overlays/{overlay}/snowbank.toml"));
    }
    files.extend(["container", "kubernetes/base", "systemd"].map(|dir| format!("deploy/{dir}/snowbank.toml")));
    for file in &files {
        machine.check(file, &text(file));
    }
}

#[test]
fn a_mistake_in_an_example_would_be_found() {
    let machine = Machine::new();
    let file = machine.home().join("broken.toml");
    std::fs::write(&file, machine.here(&text("config/nix-serve.toml")).replace("10 minutes", "1 hour"))
        .expect("a file");
    let checked = crate::support::snowbank::run(&["check-config", file.to_str().expect("text")]);
    assert_eq!(checked.status.code(), Some(64));
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(said.lines().count() == 1 && said.contains("upstream[0].narinfo_ttl"), "{said}");
}
