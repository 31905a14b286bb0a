//! The sensor's driver against a bus that expects every byte.

use brooklet_app::mpu6050::{ADDRESS, Mpu6050, Mpu6050Error};
use brooklet_app::{Imu, RecordedMpu6050, Replay};
use embedded_hal::i2c::ErrorKind;
use embedded_hal_mock::eh1::delay::NoopDelay;
use embedded_hal_mock::eh1::i2c::{Mock, Transaction};

fn is_there(who_am_i: u8) -> Transaction {
    Transaction::write_read(ADDRESS, vec![0x75], vec![who_am_i])
}

fn settings(divisor: u8) -> Vec<Transaction> {
    let writes = [[0x6b, 0x80], [0x6b, 0x01], [0x1a, 4], [0x19, divisor], [0x1b, 0x10], [0x1c, 0x10], [0x37, 0x10], [0x38, 0x01]];
    [is_there(0x68)].into_iter().chain(writes.map(|write| Transaction::write(ADDRESS, write.to_vec()))).collect()
}

#[test]
fn it_is_set_up_and_read_in_si_units() {
    let mut expected = settings(19);
    // 1 g, -0.5 g, 0; temperature; 100 °/s, -200 °/s, 0
    let registers = [4096i16, -2048, 0, 1234, 3280, -6560, 0].iter().flat_map(|x| x.to_be_bytes()).collect();
    expected.push(Transaction::write_read(ADDRESS, vec![0x3b], registers));
    let mut bus = Mock::new(&expected);
    let mut sensor = Mpu6050::new(bus.clone(), &mut NoopDelay, 50).unwrap();
    let values = sensor.read().unwrap();
    let want = [1.0, -0.5, 0.0, 100f32.to_radians(), -200f32.to_radians(), 0.0];
    assert!(values.iter().zip(want).all(|(x, y)| (x - y).abs() < 1e-6), "{values:?}");
    bus.done();
}

#[test]
fn what_is_not_the_sensor_is_refused() {
    let mut bus = Mock::new(&[is_there(0x33)]);
    assert_eq!(Mpu6050::new(bus.clone(), &mut NoopDelay, 50).unwrap_err(), Mpu6050Error::OtherChip { who_am_i: 0x33 });
    bus.done();
    let mut bus = Mock::new(&[is_there(0).with_error(ErrorKind::Bus)]);
    assert_eq!(Mpu6050::new(bus.clone(), &mut NoopDelay, 50).unwrap_err(), Mpu6050Error::Bus(ErrorKind::Bus));
    bus.done();
    for rate_hz in [0, 3, 1001] {
        let mut bus = Mock::new(&[]);
        assert_eq!(Mpu6050::new(bus.clone(), &mut NoopDelay, rate_hz).unwrap_err(), Mpu6050Error::Rate { rate_hz });
        bus.done();
    }
}

#[test]
fn a_recording_plays_through_the_driver() {
    let frames: Vec<f32> = (0..18).map(|i| i as f32 / 20.0 - 0.5).collect();
    let bytes: Vec<u8> = frames.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut sensor = Mpu6050::new(RecordedMpu6050::new(Replay::new(&bytes)), &mut NoopDelay, 50).unwrap();
    for frame in frames.chunks(6).chain(frames.chunks(6)) {
        let values = sensor.read().unwrap();
        assert!(values.iter().zip(frame).all(|(x, y)| (x - y).abs() < 1.0 / 1024.0), "{values:?} for {frame:?}");
    }
}
