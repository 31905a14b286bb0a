//! The watch classifier on STMicroelectronics' Nucleo-F411RE.
//!
//! | MPU-6050 | board | |
//! |---|---|---|
//! | SDA, SCL | PB9 (D14), PB8 (D15) | I2C at 400 kHz |
//! | INT | PA10 (D2) | a pulse per sample |
//!
//! Reports leave at 115,200 baud on PA2, the board's own USB serial port.
#![no_std]
#![no_main]

use brooklet::{Line, Session, State, kernels};
use brooklet_app::{Classifier, Clock, Fault, Message, Mpu6050, SampleQueue, Sampler, Stage, boot};
use core::cell::RefCell;
use core::convert::Infallible;
use cortex_m::peripheral::{DWT, NVIC};
use critical_section::Mutex;
use hal::gpio::{Edge, Input, PA10};
use hal::i2c::I2c;
use hal::pac::{self, I2C1, USART2, interrupt};
use hal::prelude::*;
use hal::rcc::Config;
use hal::serial::Tx;
use hal::timer::SysDelay;
use static_cell::{ConstStaticCell, StaticCell};
use stm32f4xx_hal as hal;

#[cfg(not(feature = "defmt"))]
use panic_halt as _;
#[cfg(feature = "defmt")]
use {defmt_rtt as _, panic_probe as _};

#[allow(dead_code, unreachable_pub, reason = "the same source for every firmware")]
mod model {
    include!(concat!(env!("OUT_DIR"), "/model.rs"));
}

const CLOCK_HZ: u32 = 96_000_000;
const RATE_HZ: u16 = 50;

static STATE: ConstStaticCell<[Line; model::STATE_LINES]> = ConstStaticCell::new([Line::ZERO; model::STATE_LINES]);
static SCRATCH: ConstStaticCell<[Line; model::SCRATCH_LINES]> = ConstStaticCell::new([Line::ZERO; model::SCRATCH_LINES]);
static QUEUE: StaticCell<SampleQueue> = StaticCell::new();
/// What the data-ready interrupt works with.
static SENSOR: Mutex<RefCell<Option<(PA10<Input>, Sampler<'static, Mpu6050<I2c<I2C1>>>)>>> = Mutex::new(RefCell::new(None));

/// The core's cycle counter.
struct Cycles;

impl Clock for Cycles {
    fn ticks(&self) -> u32 {
        DWT::cycle_count()
    }

    fn rate_hz(&self) -> u32 {
        CLOCK_HZ
    }
}

/// The serial port, from the HAL's version of `embedded-io` to ours.
struct Serial(Tx<USART2>);

impl embedded_io::ErrorType for Serial {
    type Error = Infallible;
}

impl embedded_io::Write for Serial {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        // Sending alone cannot fail: the port has no line to wait for.
        Ok(embedded_io_06::Write::write(&mut self.0, bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        let _ = embedded_io_06::Write::flush(&mut self.0);
        Ok(())
    }
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let (Some(mut device), Some(mut core)) = (pac::Peripherals::take(), cortex_m::Peripherals::take()) else { loop {} };
    let mut rcc = device.RCC.freeze(Config::hsi().sysclk(CLOCK_HZ.Hz()));
    core.DCB.enable_trace();
    core.DWT.enable_cycle_counter();
    let (port_a, port_b) = (device.GPIOA.split(&mut rcc), device.GPIOB.split(&mut rcc));

    let Ok(serial) = device.USART2.tx(port_a.pa2, 115_200.bps(), &mut rcc) else { loop {} };
    let mut serial = Serial(serial);
    let bus = I2c::new(device.I2C1, (port_b.pb8, port_b.pb9), 400.kHz(), &mut rcc);
    let mut data_ready = port_a.pa10.into_pull_down_input();
    data_ready.make_interrupt_source(&mut device.SYSCFG.constrain(&mut rcc));
    data_ready.trigger_on_edge(&mut device.EXTI, Edge::Rising);
    data_ready.enable_interrupt(&mut device.EXTI);

    let fault = match watch(&mut serial, bus, data_ready, core.SYST.delay(&rcc.clocks)) {
        Ok(never) => match never {},
        Err(fault) => fault,
    };
    #[cfg(feature = "defmt")]
    defmt::error!("{}", fault);
    let _ = fault.send(&mut serial);
    loop {
        cortex_m::asm::wfi();
    }
}

fn watch(serial: &mut Serial, bus: I2c<I2C1>, data_ready: PA10<Input>, mut delay: SysDelay) -> Result<Infallible, Message> {
    let (state_memory, scratch) = (Line::bytes_mut(STATE.take()), Line::bytes_mut(SCRATCH.take()));
    let model = boot(model::FILE, state_memory, scratch)?;
    let mut state = State::new(&model, state_memory).map_err(step_fault)?;
    let session = Session::new(&model, kernels::detect(), &mut state, scratch).map_err(step_fault)?;

    let sensor = Mpu6050::new(bus, &mut delay, RATE_HZ).map_err(|error| Message::fault(Stage::Sensor, format_args!("{error:?}")))?;
    let (producer, consumer) = QUEUE.init(SampleQueue::new()).split();
    critical_section::with(|cs| SENSOR.borrow_ref_mut(cs).replace((data_ready, Sampler::new(sensor, producer))));
    let _ = Message::Ready { model_hash: model.artifact().hash() }.send(serial);
    // SAFETY: the interrupt's resources are in place, and no critical section depends on its mask.
    unsafe { NVIC::unmask(pac::Interrupt::EXTI15_10) };
    Err(Classifier::new(consumer, session, Cycles).run(serial, cortex_m::asm::wfi))
}

fn step_fault(error: brooklet::Error) -> Message {
    Fault { stage: Stage::Step, error }.into()
}

#[interrupt]
fn EXTI15_10() {
    critical_section::with(|cs| {
        if let Some((data_ready, sampler)) = SENSOR.borrow_ref_mut(cs).as_mut() {
            data_ready.clear_interrupt_pending_bit();
            sampler.data_ready();
        }
    });
}
