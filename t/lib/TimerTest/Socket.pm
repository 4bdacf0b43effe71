package TimerTest::Socket;

# Test::Nginx::Socket made fit for timers and for running many files at once: a server root and a
# port of its own for each file, the module loaded, a backend at hand, and sections that wait.
#
#     use TimerTest::Socket;
#     use Test::Nginx::Socket 'no_plan';
#     run_tests();
#     __DATA__
#
# Sections besides Test::Nginx's own; each line is a pattern, waited for before the request is made,
# and one test each:
#
#     --- wait_log        a line of the error log
#     --- run_log         a line of logs/run.log, where "access_log logs/run.log run" writes what a
#                         run was (with log_subrequest on); the format "run" is below
#     --- backend         a request that the backend has had: "METHOD URI Host=...", for X-Timer = the
#                         block's name, or any if the location sets none
#
# A block without a request asks for /ready, which answers 204.  Every block ends with a test that
# the log, up to nginx's exit, holds no alert or worse.

use strict;
use warnings;

use Test::More ();
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;

my ( $root, $backend, $findings );

# Defined before Test::Nginx's own END, and so run after it: nginx is gone by then.
END {
    if ( defined $findings ) {
        my @bad = grep {/$TimerTest::Nginx::BAD_LINE/} split /\n/, slurp($findings);
        Test::More::ok( !@bad, 'nothing found in memory' ) or Test::More::diag( join "\n", @bad );
    }
}

# Test::Nginx wants the name of a file: a script, if the binary is to be run through a command.
sub _wrapped {
    my ($binary) = @_;
    my $wrapper = $ENV{TEST_NGINX_WRAPPER} // '';
    return $binary if $wrapper eq '';
    $findings = scratch_dir() . '/findings';
    my $script = spew( "$findings.sh", <<"SHELL" );
#!/bin/sh
case "\$1" in -[vV]) exec "$binary" "\$@" ;; esac
exec $wrapper "$binary" "\$@" 2>>"$findings"
SHELL
    chmod 0755, $script;
    return $script;
}

BEGIN {
    # perl -c runs this, too, on machines that have no nginx yet.
    local $ENV{TEST_NGINX_TIMER_MODULE} = $ENV{TEST_NGINX_TIMER_MODULE} // ( $^C ? '-' : undef );
    my $port = free_port();
    $root = scratch_dir() . '/root';

    $ENV{TEST_NGINX_BINARY}       = _wrapped( nginx_binary() );
    $ENV{TEST_NGINX_LOAD_MODULES} = is_static() ? '' : timer_module();
    $ENV{TEST_NGINX_SERVROOT}     = $root;
    $ENV{TEST_NGINX_SERVER_PORT}  = $port;
    $ENV{TEST_NGINX_STREAM_PORT}  = free_port();
    $ENV{TEST_NGINX_SECOND_PORT}  = free_port();
    $ENV{TEST_NGINX_TIMEOUT}      = 30 * $TimerTest::SLOW;
    $ENV{TEST_NGINX_LOG_LEVEL} //= 'debug';
    $ENV{TEST_NGINX_MASTER_PROCESS} //= 'on';
    delete @ENV{qw( TEST_NGINX_USE_HUP TEST_NGINX_RANDOMIZE )};

    if ( !eval { require Test::Nginx::Socket } ) {
        die $@ if $@ !~ m{\ACan't locate (\S+)\.pm };
        Test::More::plan( skip_all => "the Perl module $1 is not installed" =~ s{/}{::}gr );
    }
    Test::More::plan( skip_all => 'ps is not installed' ) if !program('ps');
}

if ( !$^C ) {
    $backend = TimerTest::Backend->start;
    $ENV{TEST_NGINX_BACKEND_PORT} = $backend->port;
}

Test::Nginx::Socket::server_port("127.0.0.1:$ENV{TEST_NGINX_SERVER_PORT}");
Test::Nginx::Socket::server_port_for_client( $ENV{TEST_NGINX_SERVER_PORT} );
Test::Nginx::Socket::config_preamble('location = /ready { return 204; }');

my $RUN_FORMAT = <<'EOT';
    log_format run '$timer_name $request_method $scheme://$host$uri?$args [$request] $status '
                   'from=$remote_addr:$remote_port trigger=$timer_trigger attempt=$timer_attempt '
                   'slot=$timer_worker request_uri=$request_uri set=$set_by_test';
    map "" $set_by_test { default ""; }
EOT

my $block;
my $seen = 0;

Test::Nginx::Socket::add_block_preprocessor(
    sub {
        $block = shift;

        # Each block has a server root of its own, which Test::Nginx would not empty of a state file.
        my $http  = $block->http_config // '';
        my $state = $http =~ /timer_state/ ? '' : 'timer_state memory;';
        $block->set_value( http_config => "$RUN_FORMAT$state\n$http" );

        if ( !defined $block->request ) {
            $block->set_value( request    => "GET /ready" );
            $block->set_value( error_code => 204 );
        }

        $block->set_value( init => 'TimerTest::Socket::await()' );
        $seen = $backend->requests;

        if ( !defined $block->must_die ) {
            $block->set_value( no_shutdown_error_log => $TimerTest::Nginx::BAD_LINE );
        }
    }
);

# What the block waits for, each line a test.
sub await {
    my $name = $block->name;

    my %file = ( wait_log => "$root/logs/error.log", run_log => "$root/logs/run.log" );
    for my $section (qw( wait_log run_log backend )) {
        my $text = $block->$section // next;
        for my $pattern ( split /\n/, Test::Nginx::Util::expand_env_in_text( $text, $name, {} ) ) {
            next if $pattern eq '';
            my $content = '';
            my $found = wait_until {
                $content = $section eq 'backend' ? _backend_text() : slurp( $file{$section} );
                $content =~ /$pattern/m;
            };
            Test::More::ok( $found, "$name - $section: $pattern" )
                or $section eq 'wait_log' ? Test::More::diag( _notable($content) ) : Test::More::diag($content);
        }
    }
    return;
}

sub _backend_text {
    my @requests = $backend->requests;
    return join '', map {
        my $r = $_;
        "$r->{method} $r->{uri} " . join( ' ', map {"$_=$r->{headers}{$_}"} sort keys %{ $r->{headers} } ) . " body=$r->{body}\n"
    } @requests[ $seen .. $#requests ];
}

sub _notable {
    my ($log) = @_;
    return join "\n", grep { !/\[debug\]/ } split /\n/, $log;
}

1;
