//! Hands what nginx-sys read from the configured nginx on to the compiler: `ngx_feature = "..."`
//! for each capability this nginx was built with (`"threads"`, `"http_cache"`, `"pcre2"`, ...).
//! Without the feature `nginx` there is no nginx-sys, and no capability is set.
//!
//! Compiles the C of `src/nginx` with that nginx's headers, and makes bindings of those that nginx-sys leaves
//! out where nginx has no threads.

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
    #[cfg(feature = "nginx")]
    if let Err(error) = bind_thread_pool() {
        println!("cargo::error=ngx_thread_pool.h: {error}");
    }
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

/// The thread pool, which is asked for at run time: the module is loaded by an nginx without one all the same.
#[cfg(feature = "nginx")]
fn bind_thread_pool() -> Result<(), Box<dyn std::error::Error>> {
    let header = "src/nginx/core/threads.h";
    println!("cargo::rerun-if-changed={header}");
    let include = env::var_os("DEP_NGINX_INCLUDE").unwrap_or_default();
    let include = env::split_paths(&include).map(|path| format!("-I{}", path.display()));
    let flags = env::var("DEP_NGINX_CFLAGS").unwrap_or_default();
    let flags = flags.split_whitespace().map(str::to_owned);
    let out = std::path::PathBuf::from(env::var("OUT_DIR")?);
    bindgen::Builder::default()
        .header(header)
        .clang_args(include.chain(flags))
        .allowlist_recursively(false)
        .allowlist_type("ngx_thread_(task|pool)_[st]")
        .allowlist_function("ngx_thread_(pool_add|pool_get|task_post)")
        .raw_line("use ngx::ffi::{ngx_conf_t, ngx_cycle_t, ngx_event_t, ngx_int_t, ngx_log_t, ngx_str_t, ngx_uint_t};")
        .layout_tests(false)
        .rust_target("1.85".parse().unwrap_or_default())
        .rust_edition(bindgen::RustEdition::Edition2024)
        .use_core()
        .generate()?
        .write_to_file(out.join("thread_pool.rs"))?;
    Ok(())
}
