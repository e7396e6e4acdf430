//! The terminal while something is drawn on it: its other screen, without a cursor, each key at once and unseen. Dropping it gives
//! back what was there before, whatever happened.

use std::io::{self, Read as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// To the other screen, and the cursor away.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// Back.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

pub(super) struct Terminal {
    before: Termios,
}

impl Terminal {
    /// Takes the terminal, and tells its keys.
    ///
    /// # Errors
    /// It has no settings: it is none, or is gone.
    pub(super) fn take() -> io::Result<(Self, mpsc::Receiver<u8>)> {
        let before = tcgetattr(io::stdin())?;
        let mut settings = before.clone();
        settings.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        // A key that stops the program would leave the other screen to the shell.
        settings.special_codes[SpecialCodeIndex::VSUSP] = 0;
        tcsetattr(io::stdin(), OptionalActions::Now, &settings)?;
        let terminal = Self { before };
        show(ENTER)?;
        Ok((terminal, keys()?))
    }

    /// Draws the page from the top, each line cut where the screen ends, and `hint` in the last one.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(super) fn draw(&self, page: &str, hint: &str) -> io::Result<()> {
        let size = tcgetwinsize(io::stdout())?;
        // What does not know its size says 0.
        let [rows, columns] = [(size.ws_row, 24), (size.ws_col, 80)]
            .map(|(told, usual)| usize::from(if told == 0 { usual } else { told }));
        show(&screen(page, hint, rows, columns))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to give back.
        let _ = show(LEAVE);
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

fn show(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
}

/// What draws the page on a screen of this size without an empty moment: each line over the old one, and then what is below.
fn screen(page: &str, hint: &str, rows: usize, columns: usize) -> String {
    let mut drawn = String::from("\x1b[H");
    for line in page.lines().take(rows.saturating_sub(1)) {
        drawn.extend(line.chars().take(columns));
        drawn.push_str("\x1b[K\r\n");
    }
    drawn.push_str("\x1b[J");
    drawn.push_str(&format!("\x1b[{rows};1H\x1b[2m"));
    drawn.extend(hint.chars().take(columns));
    drawn.push_str("\x1b[0m");
    drawn
}

/// The keys, read by a thread that ends with the process: a read of a terminal cannot be broken off.
fn keys() -> io::Result<mpsc::Receiver<u8>> {
    let (tell, told) = mpsc::channel(8);
    let read = move || {
        let mut byte = [0];
        while let Ok(1) = io::stdin().lock().read(&mut byte) {
            if tell.blocking_send(byte[0]).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("keys".to_owned()).spawn(read)?;
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::screen;

    #[test]
    fn a_page_is_cut_to_the_screen() {
        let drawn = screen("éone\ntwo\nthree\nfour", "hint", 3, 4);
        assert_eq!(drawn, "\x1b[Héone\x1b[K\r\ntwo\x1b[K\r\n\x1b[J\x1b[3;1H\x1b[2mhint\x1b[0m");
        assert!(screen("a", "hint", 0, 0).ends_with("\x1b[2m\x1b[0m"));
    }
}
