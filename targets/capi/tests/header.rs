//! include/brooklet.h is what cbindgen makes of the sources today.

use std::path::Path;

#[test]
fn the_header_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("the configuration");
    let sources = ["status", "model", "stream"];
    let builder = sources.iter().fold(cbindgen::Builder::new().with_config(config), |b, s| b.with_src(root.join(format!("src/{s}.rs"))));
    let mut made = Vec::new();
    builder.generate().expect("a header").write(&mut made);
    let made = String::from_utf8(made).expect("text");

    let path = root.join("include/brooklet.h");
    if std::env::var_os("BROOKLET_BLESS").is_some() {
        std::fs::write(&path, &made).expect("the header");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == made, "include/brooklet.h is old; BROOKLET_BLESS=1 cargo test -p brooklet-capi header");
}
