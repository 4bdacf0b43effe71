package TimerTest::Php;

# php-fpm, the distribution's, with a pool and a document root of its own.
#
#     my $php = TimerTest::Php->start( scratch_dir() ) or plan skip_all => 'php-fpm is not installed';
#     ... fastcgi_pass unix:SOCKET; ...

use strict;
use warnings;

use Carp qw( croak );
use IO::Socket::UNIX ();
use TimerTest;

# Undef where php-fpm is not installed.
sub start {
    my ( $class, $dir ) = @_;

    my ($binary) = grep {-x} glob('/usr/sbin/php-fpm*'), '/usr/local/sbin/php-fpm';
    return if !$binary;

    my $self = bless { dir => $dir, root => "$dir/www" }, $class;
    mkdir $self->{root};
    chmod 0777, $self->{root};

    # Run as root, the pool's processes are root's too: a test has no other user to trust in.
    my $owner = $> == 0 ? "user = root\ngroup = root\n" : '';
    spew( "$dir/fpm.conf", <<"CONF" );
[global]
daemonize = no
error_log = $dir/fpm.log
[www]
listen = $dir/fpm.sock
listen.mode = 0666
pm = static
pm.max_children = 3
request_terminate_timeout = 60
${owner}
CONF

    $self->{pid} = spawn( "$dir/fpm.out", $binary, $> == 0 ? '-R' : (), '-n', '-y', "$dir/fpm.conf" );
    wait_until { IO::Socket::UNIX->new( Peer => "$dir/fpm.sock" ) } or croak 'php-fpm: ' . $self->output;
    return $self;
}

sub root   { return $_[0]{root} }
sub socket { return "$_[0]{dir}/fpm.sock" }
sub output { return slurp("$_[0]{dir}/fpm.out") . slurp("$_[0]{dir}/fpm.log") }

1;
