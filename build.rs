//! Hands what nginx-sys read from the configured nginx on to the compiler: `ngx_feature = "..."`
//! for each capability this nginx was built with (`"threads"`, `"http_cache"`, `"pcre2"`, ...).
//! Without the feature `nginx` there is no nginx-sys, and no capability is set.
//!
//! Compiles the C of `src/nginx` with that nginx's headers.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");

    println!("cargo::rerun-if-env-changed=DEP_NGINX_FEATURES_CHECK");
    let known = env::var("DEP_NGINX_FEATURES_CHECK").unwrap_or_else(|_| "any()".into());
    println!("cargo::rustc-check-cfg=cfg(ngx_feature, values({known}))");

    println!("cargo::rerun-if-env-changed=DEP_NGINX_FEATURES");
    for feature in env::var("DEP_NGINX_FEATURES").unwrap_or_default().split(',') {
        if !feature.is_empty() {
            println!("cargo::rustc-cfg=ngx_feature=\"{feature}\"");
        }
    }

    #[cfg(feature = "nginx")]
    compile_c();
}

#[cfg(feature = "nginx")]
fn compile_c() {
    let sources = [
        "src/nginx/core/bits.c",
        "src/nginx/core/layout.c",
        "src/nginx/core/regex.c",
        "src/nginx/upstream/peers.c",
    ];
    for source in sources {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-env-changed=DEP_NGINX_INCLUDE");
    println!("cargo::rerun-if-env-changed=DEP_NGINX_CFLAGS");
    let include = env::var_os("DEP_NGINX_INCLUDE").unwrap_or_default();
    let flags = env::var("DEP_NGINX_CFLAGS").unwrap_or_default();

    let mut build = cc::Build::new();
    build
        .files(sources)
        .includes(env::split_paths(&include))
        .flag_if_supported("-Wno-unused-parameter");
    for flag in flags.split_whitespace() {
        build.flag(flag);
    }
    build.compile("ngx_http_timer_c");
}
