package TimerTest::Certificate;

# Certificates, made with openssl; a file that uses this is skipped where there is none.

use strict;
use warnings;

use Carp qw( croak );
use Exporter ();
use Test::More ();
use TimerTest;

our @EXPORT = qw( make_certificate );

sub import {
    Test::More::plan( skip_all => 'openssl is not installed' ) if !$^C && !program('openssl');
    goto &Exporter::import;
}

# Answers the paths of the certificate and of its key, in a directory. The name is the common name, or a subject that
# begins with "/", of somebody who has none. It is signed by itself or, for servers and for
# clients, by an authority, told by the same two.
sub make_certificate {
    my ( $dir, $name, @authority ) = @_;

    my $file = $name =~ s/[^\w.]+/-/gr;
    my ( $cert, $key ) = ( "$dir/$file.crt", "$dir/$file.key" );
    my @subject = $name =~ m{\A/} ? ( '-subj', $name ) : ( '-subj', "/CN=$name", '-addext', "subjectAltName=DNS:$name" );
    my @sign = @authority ? ( '-CA', $authority[0], '-CAkey', $authority[1] ) : ();
    push @sign, map { ( '-addext', $_ ) } 'basicConstraints=critical,CA:FALSE', 'extendedKeyUsage=serverAuth,clientAuth' if @authority;
    my ( $status, $out ) = run_command(
        qw( openssl req -x509 -newkey rsa:2048 -nodes -days 30 ),
        @subject, @sign, '-keyout', $key, '-out', $cert,
    );
    croak "openssl: $out" if $status ne '0';
    return ( $cert, $key );
}

1;
