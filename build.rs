//! Hands what nginx-sys read from the configured nginx on to the compiler: `ngx_feature = "..."`
//! for each capability this nginx was built with (`"threads"`, `"http_cache"`, `"pcre2"`, ...).
//! Without the feature `nginx` there is no nginx-sys, and no capability is set.

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
}
