//! The dashboards are what Grafana publishes as the shape of dashboards and panels: TypeScript's compiler says so.
//!
//! `tests/run` fetches both, and names where in `SNOWBANK_TEST_GRAFANA_TYPES`; without them the test says so and does nothing.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use super::dashboards;

/// The shapes, with words in the place of enums: JSON has no other. Of targets, a data source says the shape, and not Grafana.
const SHAPES: &str = r#"
import * as raw from "@grafana/schema/dist/types/raw/dashboard/x/types.gen";
import * as timeseries from "@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen";
import * as stat from "@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen";
type Json<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T
  : T extends (infer U)[] ? Json<U>[] : T extends object ? {[K in keyof T]: Json<T[K]>} : T;
type Target = {refId: string, datasource: {type: string, uid: string}, expr: string, legendFormat?: string,
  instant?: boolean, range?: boolean, format?: string};
type Panel<Type, Options, Custom> = {type: Type} & Json<Omit<raw.Panel, "type" | "options" | "fieldConfig" | "targets"> & {
  options: Partial<Options>,
  fieldConfig: {defaults: Omit<raw.FieldConfig, "custom"> & {custom?: Custom}, overrides: []},
  targets: Target[]}>;
type APanel = Panel<"timeseries", timeseries.Options, timeseries.FieldConfig> | Panel<"stat", stat.Options, {}>;
type Dashboard = Json<Omit<raw.Dashboard, "panels">> & {panels: APanel[]};
"#;

/// What the compiler says of these lines behind the shapes.
fn compiled(types: &PathBuf, lines: &str) -> Result<(), String> {
    // Beside the types, where the compiler looks for them.
    let file = tempfile::Builder::new().suffix(".ts").tempfile_in(types).expect("a file");
    std::fs::write(file.path(), format!("{SHAPES}{lines}")).expect("a file");
    let output = Command::new("node")
        .arg(types.join("node_modules/typescript/lib/tsc.js"))
        .args(["--noEmit", "--strict", "--skipLibCheck", "--moduleResolution", "node", "--target", "es2020"])
        .arg(file.path())
        .output()
        .expect("node is installed");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stdout).into_owned()) }
}

#[test]
fn the_dashboards_have_the_shape_that_grafana_publishes() {
    let Some(types) = std::env::var_os("SNOWBANK_TEST_GRAFANA_TYPES").map(PathBuf::from) else {
        eprintln!("NOT RUN: SNOWBANK_TEST_GRAFANA_TYPES is not set (tests/run sets it)");
        return;
    };
    let mut lines = String::new();
    for (n, (_, dashboard)) in dashboards().into_iter().enumerate() {
        writeln!(lines, "const dashboard{n}: Dashboard = {dashboard};").expect("a string");
    }
    assert_eq!(compiled(&types, &lines), Ok(()));
    // A field that there is not, a unit that is no text, a legend in no known place.
    let (_, whole) = dashboards().swap_remove(0);
    for (pointer, wrong) in [
        ("/panels/0/descriptoin", "\"x\""),
        ("/panels/0/fieldConfig/defaults/unit", "7"),
        ("/panels/0/options/legend/placement", "\"middle\""),
        ("/schemaVersion", "\"41\""),
    ] {
        let mut dashboard = whole.clone();
        let (parent, field) = pointer.rsplit_once('/').expect("a field");
        let parent = dashboard.pointer_mut(parent).and_then(serde_json::Value::as_object_mut).expect("an object");
        parent.insert(field.to_owned(), serde_json::from_str(wrong).expect("JSON"));
        assert!(compiled(&types, &format!("const wrong: Dashboard = {dashboard};")).is_err(), "{pointer}");
    }
}
