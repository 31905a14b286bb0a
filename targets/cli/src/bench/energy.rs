//! Energy, where a board says what it takes: Jetsons have meters at their supply rails (INA3221, in sysfs), other GPUs count their own joules, which
//! the driver's NVML tells.

use anyhow::Result;
use brooklet_cuda::Device;
use nvml_wrapper::Nvml;
use serde::Serialize;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Where Linux shows its meters.
const METERS: &str = "/sys/class/hwmon";
/// Rails that feed a whole module, so that others are behind them: Orin NX and Nano, Xavier NX, TX2; Nano.
const WHOLE: [&str; 3] = ["VDD_IN", "POM_5V_IN", "5V_IN"];
/// How often rails are read: a meter has a new figure about as often.
const BETWEEN: Duration = Duration::from_millis(10);
/// Least time that is measured: counters move some ten times a second.
const LEAST: Duration = Duration::from_secs(2);

/// What tells the energy.
pub(super) enum Meter {
    Rails(Vec<Rail>),
    /// The GPU with this number.
    Counter(Box<Nvml>, String),
}

/// A supply line with a meter.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rail {
    label: String,
    millivolts: PathBuf,
    milliamperes: PathBuf,
}

/// What steps took, idle power and all.
#[derive(Serialize)]
pub(super) struct Energy {
    /// What was measured: a GPU, or the rails of a board.
    meter: String,
    pub(super) joules_per_step: f64,
    watts: f64,
}

impl Meter {
    /// What the board of a GPU has.
    pub(super) fn of(device: &Device) -> Option<Self> {
        if device.is_integrated() {
            let rails = rails(Path::new(METERS));
            return (!rails.is_empty()).then_some(Meter::Rails(rails));
        }
        // The library's other name is there only where programs are linked with it.
        let nvml = Nvml::builder().lib_path(OsStr::new("libnvidia-ml.so.1")).init().or_else(|_| Nvml::init()).ok()?;
        Some(Meter::Counter(Box::new(nvml), device.uuid().ok()?))
    }

    /// Does `work`, so many steps each time, for some seconds; nothing if the meter cannot be read.
    pub(super) fn measure(&self, mut work: impl FnMut() -> Result<usize>) -> Result<Option<Energy>> {
        // Clocks rise with the first work.
        work()?;
        let mut repeat = || {
            let (start, mut steps) = (Instant::now(), 0);
            while start.elapsed() < LEAST {
                steps += work()?;
            }
            anyhow::Ok((steps, start.elapsed().as_secs_f64()))
        };
        let ((steps, seconds), joules) = match self {
            Meter::Counter(..) => {
                let before = self.counted_joules();
                let done = repeat()?;
                (done, before.zip(self.counted_joules()).map(|(before, after)| after - before))
            }
            Meter::Rails(rails) => {
                let is_done = AtomicBool::new(false);
                let (done, watts) = thread::scope(|scope| {
                    let reader = scope.spawn(|| mean_watts(rails, &is_done));
                    let done = repeat();
                    is_done.store(true, Ordering::Relaxed);
                    (done, reader.join().ok().flatten())
                });
                let done = done?;
                (done, watts.map(|watts| watts * done.1))
            }
        };
        Ok(joules.filter(|_| steps > 0).map(|joules| Energy {
            meter: self.name(),
            joules_per_step: joules / steps as f64,
            watts: joules / seconds,
        }))
    }

    fn counted_joules(&self) -> Option<f64> {
        let Meter::Counter(nvml, uuid) = self else { return None };
        Some(nvml.device_by_uuid(uuid.as_str()).ok()?.total_energy_consumption().ok()? as f64 / 1e3)
    }

    fn name(&self) -> String {
        match self {
            Meter::Counter(..) => "the GPU's counter".to_owned(),
            Meter::Rails(rails) => rails.iter().map(|rail| rail.label.as_str()).collect::<Vec<_>>().join(" + "),
        }
    }
}

impl Energy {
    /// For people.
    pub(super) fn text(&self) -> String {
        format!("{:>9.3} mJ a step, {:.1} W ({})", self.joules_per_step * 1e3, self.watts, self.meter)
    }
}

/// The rail that feeds a whole board, if the meters in `folder` have one, else all that have a name: they follow each other in no other way that is known here.
fn rails(folder: &Path) -> Vec<Rail> {
    let read = |path: PathBuf| fs::read_to_string(path).map(|text| text.trim().to_owned()).ok();
    let mut meters: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    meters.sort();
    meters.retain(|meter| read(meter.join("name")).is_some_and(|name| name.starts_with("ina3221")));
    let rail = |meter: &PathBuf, channel: u32| {
        let label = read(meter.join(format!("in{channel}_label"))).filter(|label| !label.is_empty() && label != "NC")?;
        let file = |kind: &str| meter.join(format!("{kind}{channel}_input"));
        let rail = Rail { label, millivolts: file("in"), milliamperes: file("curr") };
        rail.watts().map(|_| rail)
    };
    let mut rails: Vec<Rail> =
        meters.iter().flat_map(|meter| (1..=3).filter_map(|channel| rail(meter, channel)).collect::<Vec<_>>()).collect();
    if let Some(whole) = rails.iter().position(|rail| WHOLE.contains(&rail.label.as_str())) {
        rails = vec![rails.swap_remove(whole)];
    }
    rails
}

impl Rail {
    /// What it carries now.
    fn watts(&self) -> Option<f64> {
        let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<f64>().ok();
        Some(number(&self.millivolts)? * number(&self.milliamperes)? / 1e6)
    }
}

/// The mean of what all rails carry, until `is_done`.
fn mean_watts(rails: &[Rail], is_done: &AtomicBool) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0u32);
    while !is_done.load(Ordering::Relaxed) {
        for rail in rails {
            sum += rail.watts()?;
        }
        count += 1;
        thread::sleep(BETWEEN);
    }
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a meter with the files of Linux's driver.
    fn meter(folder: &Path, name: &str, channels: &[(u32, &str, &str, &str)]) {
        let meter = folder.join(name);
        fs::create_dir_all(&meter).unwrap();
        fs::write(meter.join("name"), "ina3221\n").unwrap();
        for (channel, label, millivolts, milliamperes) in channels {
            fs::write(meter.join(format!("in{channel}_label")), format!("{label}\n")).unwrap();
            fs::write(meter.join(format!("in{channel}_input")), format!("{millivolts}\n")).unwrap();
            fs::write(meter.join(format!("curr{channel}_input")), format!("{milliamperes}\n")).unwrap();
        }
        // The driver's sum of shunt voltages is no rail.
        fs::write(meter.join("in7_label"), "sum of shunt voltages\n").unwrap();
    }

    fn labels(rails: &[Rail]) -> Vec<&str> {
        rails.iter().map(|rail| rail.label.as_str()).collect()
    }

    #[test]
    fn a_modules_input_is_taken_for_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        meter(
            folder.path(),
            "hwmon1",
            &[(1, "VDD_IN", "5000", "1200"), (2, "VDD_CPU_GPU_CV", "5000", "400"), (3, "VDD_SOC", "5000", "300")],
        );
        fs::create_dir_all(folder.path().join("hwmon0")).unwrap();
        fs::write(folder.path().join("hwmon0/name"), "thermal\n").unwrap();
        let rails = rails(folder.path());
        assert_eq!(labels(&rails), ["VDD_IN"]);
        assert_eq!(rails[0].watts(), Some(6.0));
    }

    #[test]
    fn rails_side_by_side_are_added_up() {
        let folder = tempfile::tempdir().unwrap();
        meter(folder.path(), "hwmon3", &[(1, "VDD_GPU_SOC", "12000", "500"), (2, "VDD_CPU_CV", "12000", "100"), (3, "NC", "0", "0")]);
        meter(folder.path(), "hwmon4", &[(2, "VIN_SYS_5V0", "5000", "600")]);
        let found = rails(folder.path());
        assert_eq!(labels(&found), ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]);
        let is_done = AtomicBool::new(false);
        let watts = thread::scope(|scope| {
            let reader = scope.spawn(|| mean_watts(&found, &is_done));
            thread::sleep(3 * BETWEEN);
            is_done.store(true, Ordering::Relaxed);
            reader.join().unwrap()
        });
        assert!((watts.unwrap() - 10.2).abs() < 1e-9, "{watts:?}");
        let measured = Meter::Rails(found).measure(|| Ok(10)).unwrap().unwrap();
        assert_eq!(measured.meter, "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0");
        assert!((measured.watts - 10.2).abs() < 1e-6 && measured.joules_per_step > 0.0, "{}", measured.text());
    }

    #[test]
    fn what_cannot_be_read_is_no_meter() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(rails(&folder.path().join("none")), []);
        meter(folder.path(), "hwmon0", &[(1, "VDD_IN", "5000", "on fire")]);
        assert_eq!(rails(folder.path()), []);
        // One that falls silent later is none either.
        meter(folder.path(), "hwmon0", &[(1, "VDD_IN", "5000", "1000")]);
        let found = rails(folder.path());
        fs::remove_file(folder.path().join("hwmon0/curr1_input")).unwrap();
        assert!(Meter::Rails(found).measure(|| Ok(1)).unwrap().is_none());
    }
}
