//! What the process is started with, as far as it decides a default.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::options::Mistakes;

/// The environment that the default state directory depends on.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `STATE_DIRECTORY`: set by systemd for a unit with `StateDirectory=`; a list with `:` between.
    pub state_directory: Option<OsString>,
    /// `XDG_STATE_HOME`.
    pub xdg_state_home: Option<OsString>,
    /// `HOME`.
    pub home: Option<OsString>,
    /// Whether the process runs as root.
    pub root: bool,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        Self {
            state_directory: std::env::var_os("STATE_DIRECTORY"),
            xdg_state_home: std::env::var_os("XDG_STATE_HOME"),
            home: std::env::var_os("HOME"),
            root: rustix::process::geteuid().is_root(),
        }
    }

    /// Where things are kept unless the file or a flag says otherwise; `None` when nothing tells.
    pub fn state_dir(&self) -> Option<PathBuf> {
        // Relative paths in these variables are to be ignored (XDG Base Directory Specification, "Basics").
        let path = |value: &Option<OsString>| value.as_ref().map(PathBuf::from).filter(|p| p.is_absolute());
        if let Some(list) = &self.state_directory {
            return std::env::split_paths(list).find(|p| p.is_absolute());
        }
        if self.root {
            return Some(PathBuf::from("/var/lib/snowbank"));
        }
        let below_home = || path(&self.home).map(|home| home.join(".local/state"));
        path(&self.xdg_state_home).or_else(below_home).map(|state| state.join("snowbank"))
    }

    /// Sets `store.dir` where the file does not. What is not a table is left for the reader to refuse.
    pub(super) fn fill_in_state_dir(&self, table: &mut toml::Table, mistakes: &mut Mistakes) {
        let store = table.entry("store").or_insert_with(|| toml::Table::new().into());
        let toml::Value::Table(store) = store else { return };
        if store.contains_key("dir") {
            return;
        }
        match self.state_dir().and_then(|dir| dir.into_os_string().into_string().ok()) {
            Some(dir) => _ = store.insert("dir".to_owned(), dir.into()),
            None => mistakes.missing("store.dir", "a path, because neither STATE_DIRECTORY nor HOME tells one"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_dir(state_directory: &str, xdg: &str, home: &str, root: bool) -> Option<String> {
        let value = |text: &str| (!text.is_empty()).then(|| text.into());
        let environment = Environment {
            state_directory: value(state_directory),
            xdg_state_home: value(xdg),
            home: value(home),
            root,
        };
        environment.state_dir().map(|p| p.display().to_string())
    }

    #[test]
    fn the_state_directory_is_that_of_systemd_or_of_the_user() {
        assert_eq!(state_dir("/s/a:/s/b", "/x", "/h", true).as_deref(), Some("/s/a"));
        assert_eq!(state_dir("", "/x", "/h", true).as_deref(), Some("/var/lib/snowbank"));
        assert_eq!(state_dir("", "/x", "/h", false).as_deref(), Some("/x/snowbank"));
        assert_eq!(state_dir("", "x", "/h", false).as_deref(), Some("/h/.local/state/snowbank"));
        assert_eq!(state_dir("", "", "/h", false).as_deref(), Some("/h/.local/state/snowbank"));
        assert_eq!(state_dir("", "", "", false), None);
    }

    #[test]
    fn a_directory_in_the_file_wins() {
        let environment = Environment { root: true, ..Environment::default() };
        let mut mistakes = Mistakes::default();
        for (text, dir) in [("", "/var/lib/snowbank"), ("[store]", "/var/lib/snowbank"), ("[store]\ndir = '/d'", "/d")]
        {
            let mut table = text.parse().unwrap();
            environment.fill_in_state_dir(&mut table, &mut mistakes);
            assert_eq!(table["store"]["dir"].as_str(), Some(dir));
        }
        let mut odd: toml::Table = "store = 1".parse().unwrap();
        environment.fill_in_state_dir(&mut odd, &mut mistakes);
        assert_eq!(odd["store"].as_integer(), Some(1));
        assert!(mistakes.is_empty(), "{mistakes}");
        Environment::default().fill_in_state_dir(&mut toml::Table::new(), &mut mistakes);
        assert!(mistakes.to_string().starts_with("store.dir: missing"), "{mistakes}");
    }
}
