//! What is said where there is no GPU, or too little of one.

mod rig;

use brooklet_cuda::arena::{Arena, Layout};
use brooklet_cuda::{Device, Error};
use rig::gpu;

/// One clear line: what it is, and no end of a sentence that asks for another.
fn is_one_line(error: &Error) -> bool {
    let text = error.to_string();
    text.len() > 20 && text.lines().count() == 1 && !text.ends_with('.')
}

#[test]
fn a_machine_without_a_gpu_says_so() {
    match Device::open(0) {
        Ok(device) => println!("there is one: {} {:?}", device.name(), device.capability()),
        Err(error) => {
            assert!(matches!(error, Error::NoDriver | Error::NoDevice { .. }), "{error}");
            assert!(is_one_line(&error), "{error}");
        }
    }
}

#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    let Some(_) = gpu("a GPU too many") else { return };
    let error = Device::open(1000).unwrap_err();
    assert!(matches!(error, Error::NoDevice { ordinal: 1000, .. }) && is_one_line(&error), "{error}");
}

#[test]
fn too_little_memory_is_an_error_and_the_gpu_goes_on() {
    let Some(device) = gpu("memory") else { return };
    let (free, _) = device.memory_bytes().unwrap();
    let mut layout = Layout::default();
    layout.add(free + (1 << 30));
    let error = Arena::new(&device, &layout).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { needed_bytes, .. } if needed_bytes > free) && is_one_line(&error), "{error}");
    let mut layout = Layout::default();
    let place = layout.add(4096);
    let mut arena = Arena::new(&device, &layout).unwrap();
    arena.upload(place, &[7u8; 4096]).unwrap();
    let mut back = [0u8; 4096];
    arena.download(place, &mut back).unwrap();
    assert_eq!(back, [7; 4096]);
}

#[test]
fn errors_say_what_was_asked_for_and_what_there_is() {
    let old = Error::OldDriver { version: 11_020 };
    let unknown = Error::UnknownArchitecture { name: "Tesla T4".into(), capability: (7, 5) };
    let (stream, tokens) = (Error::NoStream { stream: 4, streams: 3 }, Error::NoTokens { outputs: 9, vocab: 8 });
    for (error, words) in
        [(old, ["11.2", "11.4"]), (unknown, ["Tesla T4", "7.5"]), (stream, ["stream 4", "3"]), (tokens, ["9 outputs", "8 tokens"])]
    {
        let text = error.to_string();
        assert!(is_one_line(&error) && words.iter().all(|word| text.contains(word)), "{text}");
    }
}
