//! The person's own terminal.

use std::io::{self, IsTerminal as _, stdin};

use clone8s::v1::PodTerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Every key goes to the pod as it is, Ctrl-C too. Dropping it brings the terminal back.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// None where the input is no terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        if !stdin().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// Whether what is started has a terminal: not where it is to read a file or a pipe, whose end would not reach a program
/// behind one. Says so then.
pub fn is_given(what: &str, wanted: bool, reads: bool) -> bool {
    let given = wanted && (!reads || stdin().is_terminal());
    if wanted && !given {
        eprintln!("no terminal for the {what}: the input of c8s is none");
    }
    given
}

/// None where the input is no terminal.
pub fn size() -> Option<PodTerminalSize> {
    let size = tcgetwinsize(stdin()).ok()?;
    Some(PodTerminalSize {
        width: size.ws_col.into(),
        height: size.ws_row.into(),
    })
}
