# After "config", the rules for nginx's objs/Makefile. cargo knows whether there is something to do.

# shellcheck shell=sh disable=SC2086,SC2154 # nginx's variables

case $NGX_OBJS in
/*) ngx_timer_objs=$NGX_OBJS ;;
*)  ngx_timer_objs=\$\$PWD/$NGX_OBJS ;;
esac

cat << END                                                        >> $NGX_MAKEFILE

.PHONY:	ngx_timer_cargo

$ngx_timer_library:	ngx_timer_cargo
	CARGO="${NGX_CARGO:-cargo}" BUILD="$ngx_timer_objs" TARGET="$ngx_timer_objs/ngx_http_timer_module" \\
		sh "$ngx_addon_dir/tools/cargo" "\$\$PWD" rustc --lib --crate-type staticlib --release --locked \\
		--no-default-features --features nginx

END

if [ $ngx_timer_link = DYNAMIC ]; then
    cat << END                                                    >> $NGX_MAKEFILE
$NGX_OBJS${ngx_dirsep}ngx_http_timer_module$ngx_modext:	$ngx_timer_library

END
fi
