//! `deploy/kubernetes`: what kubectl and helm make of it is what Kubernetes accepts, and the two are the same.

use super::{Machine, printed, seconds_to_stop, text, tool, tree};
use std::process::Output;

const DIRECTORIES: [&str; 5] =
    ["base", "overlays/acme", "overlays/cert-manager", "overlays/monitoring", "overlays/replicas"];
/// The version that manifests are rendered for; helm's own default depends on how it was built.
const VERSION: &str = "1.33.0";

/// `kubectl kustomize`, unless it is too old for these files (before kustomize 5, in kubectl 1.27).
fn kustomize(directory: &str) -> Option<String> {
    let version = tool("kubectl", &["version", "--client"])?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    if !version.contains("Kustomize Version: v5") {
        eprintln!("NOT RUN: kubectl is too old: {version}");
        return None;
    }
    tool("kubectl", &["kustomize", &tree(&format!("deploy/kubernetes/{directory}")).display().to_string()])
        .map(|output| printed(&output))
}

fn helm(arguments: &[&str]) -> Option<Output> {
    let template = ["template", "cache", "deploy/kubernetes/chart", "--kube-version", VERSION];
    tool("helm", &[&template[..], arguments].concat())
}

/// Whether Kubernetes' own schemas accept it, strictly: kinds of others have none there, and are told as such.
#[track_caller]
fn validate(manifest: &str) {
    let program =
        std::env::var("SNOWBANK_TEST_KUBERNETES_VALIDATE").unwrap_or_else(|_| "kubernetes-validate".to_owned());
    let file = tempfile::NamedTempFile::with_suffix(".yaml").expect("a file");
    std::fs::write(file.path(), manifest).expect("a file");
    let Some(output) = tool(&program, &["--strict", file.path().to_str().expect("text")]) else { return };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.matches("passed for resource").count() >= 7, "{said}");
}

/// What every way of deploying it keeps (R38).
#[track_caller]
fn is_restricted(manifest: &str) {
    for line in [
        "automountServiceAccountToken: false",
        "runAsNonRoot: true",
        "readOnlyRootFilesystem: true",
        "allowPrivilegeEscalation: false",
        "type: RuntimeDefault",
        "kind: NetworkPolicy",
        "kind: PodDisruptionBudget",
    ] {
        assert!(manifest.contains(line), "{line}");
    }
    assert!(!manifest.contains("hostNetwork") && !manifest.contains("privileged: true"));
}

#[test]
fn every_overlay_is_what_kubernetes_accepts() {
    for directory in DIRECTORIES {
        let Some(manifest) = kustomize(directory) else { return };
        validate(&manifest);
        is_restricted(&manifest);
    }
    let acme = kustomize("overlays/acme").expect("it was there");
    assert!(acme.contains("replicas: 1\n") && acme.contains("type: LoadBalancer"));
    let certified = kustomize("overlays/cert-manager").expect("it was there");
    assert!(certified.contains("kind: Certificate") && certified.contains("mountPath: /run/secrets/tls"));
    let monitored = kustomize("overlays/monitoring").expect("it was there");
    for kind in ["ServiceMonitor", "PrometheusRule"] {
        assert!(monitored.contains(&format!("kind: {kind}\n")), "{kind}");
    }
    assert!(monitored.contains("overview.json: |"), "the dashboards");
    let shared = kustomize("overlays/replicas").expect("it was there");
    assert!(shared.contains("replicas: 3\n") && shared.contains("[library]") && !shared.contains("optional: true"));
}

#[test]
fn kubernetes_waits_for_the_end() {
    let grace = |manifest: &str| -> u64 {
        let (_, rest) = manifest.split_once("terminationGracePeriodSeconds: ").expect("a limit");
        rest.lines().next().and_then(|line| line.trim().parse().ok()).expect("seconds")
    };
    let limit = grace(&text("deploy/kubernetes/base/statefulset.yaml"));
    for file in ["base", "overlays/acme", "overlays/cert-manager", "overlays/replicas"] {
        let config = text(&format!("deploy/kubernetes/{file}/snowbank.toml"));
        assert!(limit > seconds_to_stop(&config), "{file}");
        assert!(config.contains("delay = \"15 s\"") && config.contains("[admin]\naddress = \"[::]:9090\""), "{file}");
    }
    assert_eq!(grace(&text("deploy/kubernetes/chart/values.yaml")), limit);
}

#[test]
fn the_chart_has_the_configuration_of_the_base() {
    let values = text("deploy/kubernetes/chart/values.yaml");
    let (_, config) = values.split_once("config: |\n").expect("a configuration");
    let lines = config.lines().take_while(|line| line.is_empty() || line.starts_with("  "));
    let config: String = lines.map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line))).collect();
    assert_eq!(config.trim_end(), text("deploy/kubernetes/base/snowbank.toml").trim_end());
    Machine::new().check("values.yaml", &config);
}

#[test]
fn the_chart_renders_what_kubernetes_accepts() {
    let Some(output) = helm(&[]) else { return };
    let manifest = printed(&output);
    validate(&manifest);
    is_restricted(&manifest);
    let all = [
        "--set=replicas=1,tls.secretName=snowbank-tls,tls.certManager.enabled=true,serviceMonitor.enabled=true",
        "--set=tls.certManager.dnsNames={cache.example.org},service.https=true,service.type=LoadBalancer",
        "--set=service.externalTrafficPolicy=Local,storage.className=fast,nodeSelector.disk=ssd,podAnnotations.a=b",
        "--set=env[0].name=https_proxy,env[0].value=http://proxy.example.org,service.annotations.a=b",
    ];
    let manifest = printed(&helm(&all).expect("it was there"));
    validate(&manifest);
    for part in ["kind: Certificate", "kind: ServiceMonitor", "storageClassName: fast", "mountPath: /run/secrets/tls"] {
        assert!(manifest.contains(part), "{part}");
    }
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for (value, told) in [
        ("replicas=many", "replicas"),
        ("replica=1", "replica"),
        ("storage.size=large", "size"),
        ("tls.certManager.enabled=true", "secretName"),
        ("service.http=false", "service"),
    ] {
        let Some(output) = helm(&["--set", value]) else { return };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(told), "{value}: {said}");
    }
}

#[test]
fn every_dashboard_goes_along() {
    let list = text("grafana/kustomization.yaml");
    let dashboards = std::fs::read_dir(tree("grafana/dashboards")).expect("a directory");
    for entry in dashboards {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        assert!(list.contains(&format!("- dashboards/{name}\n")), "{name} is not in kustomization.yaml");
    }
}

/// The operator takes alerts as an object of its own kind only.
#[test]
fn the_alerts_of_the_operator_are_those_of_the_file() {
    const AT: &str = "deploy/kubernetes/overlays/monitoring/prometheusrule.yaml";
    let rules = text("grafana/snowbank.rules.yml");
    let (_, groups) = rules.split_once("\ngroups:\n").expect("groups");
    let groups: String = groups.lines().map(|line| format!("  {line}\n")).collect();
    let fresh = format!(
        "# Made from grafana/snowbank.rules.yml: `SNOWBANK_BLESS=1 cargo test the_alerts` writes it anew.\n\
         apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: snowbank\n  labels:\n    \
         app.kubernetes.io/name: snowbank\nspec:\n  groups:\n{groups}"
    );
    if std::env::var_os("SNOWBANK_BLESS").is_some() {
        std::fs::write(tree(AT), &fresh).expect("a file");
    }
    assert!(text(AT) == fresh, "{AT} is stale: run `SNOWBANK_BLESS=1 cargo test the_alerts` and commit it");
}
