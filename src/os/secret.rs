//! Files that hold a secret.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::call::Call;
use super::fault;

/// A secret; nothing shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Why a file is no secret.
#[derive(Debug)]
pub enum SecretError {
    /// Users that are neither its owner nor in its group may read it.
    MayBeRead,
    /// It holds no line, more than one, or something else than text.
    NotOneLine,
    /// It cannot be opened or read: this call failed.
    Failed(Call, io::Error),
}

/// The longest line, in bytes.
const LONGEST: u64 = 1024;

/// Read and execute, and so on, of those who are neither owner nor in the group.
const OTHERS_READ: u32 = 0o004;

impl Secret {
    /// Reads the one line of the file.
    ///
    /// # Errors
    ///
    /// See [`SecretError`].
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let failed = |call| move |error| SecretError::Failed(call, error);
        fault::check(Call::Open).map_err(failed(Call::Open))?;
        // A FIFO at the path must not hang the master.
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = opened.map_err(failed(Call::Open))?;
        let metadata = file.metadata().map_err(failed(Call::Stat))?;
        if !metadata.is_file() {
            return Err(SecretError::NotOneLine);
        }
        if metadata.mode() & OTHERS_READ != 0 {
            return Err(SecretError::MayBeRead);
        }
        let mut text = String::new();
        let read = file.take(LONGEST + 1).read_to_string(&mut text);
        if read.as_ref().is_err_and(|why| why.kind() == io::ErrorKind::InvalidData) {
            return Err(SecretError::NotOneLine);
        }
        read.map_err(failed(Call::Read))?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let fits = u64::try_from(line.len()).is_ok_and(|len| (1..=LONGEST).contains(&len));
        if !fits || line.contains(|character: char| character.is_control()) {
            return Err(SecretError::NotOneLine);
        }
        Ok(Self(line.to_owned()))
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
impl From<&str> for Secret {
    fn from(secret: &str) -> Self {
        Self(secret.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::os::scratch::Scratch;

    fn read(text: &[u8], mode: u32) -> Result<Secret, SecretError> {
        let scratch = Scratch::new();
        let path = scratch.path("password");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        Secret::read(&path)
    }

    #[test]
    fn one_line_is_a_secret_that_is_not_shown() {
        for text in ["s3cret", "s3cret\n", "s3cret\r\n"] {
            let secret = read(text.as_bytes(), 0o640).unwrap();
            assert_eq!(secret.reveal(), "s3cret");
            assert!(!format!("{secret:?}").contains("s3cret"));
        }
    }

    #[test]
    fn others_may_not_read_it() {
        assert!(matches!(read(b"a\n", 0o644), Err(SecretError::MayBeRead)));
        assert!(matches!(read(b"a\n", 0o604), Err(SecretError::MayBeRead)));
    }

    #[test]
    fn what_is_not_one_line_is_none() {
        let long = vec![b'a'; 1025];
        for text in [&b""[..], b"\n", b"a\nb\n", b"a\0", b"\xff\n", &long] {
            assert!(matches!(read(text, 0o600), Err(SecretError::NotOneLine)), "{text:?}");
        }
        assert!(read(&long[1..], 0o600).is_ok());
        let scratch = Scratch::new();
        assert!(matches!(Secret::read(&scratch.path("")), Err(SecretError::NotOneLine)));
        assert!(matches!(
            Secret::read(&scratch.path("none")),
            Err(SecretError::Failed(Call::Open, _))
        ));
    }
}
