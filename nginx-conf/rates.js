// For the part "njs" of sync.conf, as conf/rates.js.

function update(r) {
    ngx.shared.rates.set('eur', '1.08');
    r.return(200, 'ok\n');
}

function show(r) {
    r.return(200, (ngx.shared.rates.get(r.args.name) || 'none') + '\n');
}

export default { update, show };
