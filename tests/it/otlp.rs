//! Traces for a collector: in a program with the feature what arrives there is true and complete, and no collector, however bad,
//! costs a request; one without it says so.

#[cfg(feature = "otlp")]
mod collectors;
#[cfg(feature = "otlp")]
mod spans;

#[cfg(not(feature = "otlp"))]
#[test]
fn a_program_without_the_feature_refuses_the_option_and_says_why() {
    use crate::support::snowbank::{Setup, run};

    let setup = Setup::new().also("[log]\notlp = \"http://127.0.0.1:4318/v1/traces\"\n");
    let path = setup.write();
    let output = run(&["check-config", path.to_str().expect("a path of text")]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("log.otlp: this program was built without the feature `otlp`"), "{said}");
}
