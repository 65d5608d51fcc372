<#
.SYNOPSIS
Starts the whole of Mainstay in containers, on Windows or wherever PowerShell runs: what `docker compose up` does, with a
look at what is needed before and a look at what came of it after.

.EXAMPLE
scripts/start-compose.ps1                  # build where needed, start, wait until healthy
scripts/start-compose.ps1 -Profile core    # without Jaeger, Prometheus and Grafana
scripts/start-compose.ps1 -Down            # stop; the data stays in its volumes
#>
[CmdletBinding()]
param(
    [ValidateSet('core', 'full')] [Alias('Profile')] [string] $ComposeProfile = 'full',
    [ValidateRange(10, 3600)] [int] $WithinSeconds = 300,
    [switch] $Down
)
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Set-Location (Split-Path -Parent $PSScriptRoot)

function Stop-With([string] $Message) {
    [Console]::Error.WriteLine("error: $Message")
    exit 1
}

if (-not (Get-Command docker -ErrorAction SilentlyContinue)) { Stop-With 'docker is missing: install Docker Desktop or a Docker engine' }
docker info *> $null
if ($LASTEXITCODE -ne 0) { Stop-With 'no Docker engine answers: start it first' }
docker compose version *> $null
if ($LASTEXITCODE -ne 0) { Stop-With 'docker compose (v2) is missing' }

$env:COMPOSE_PROFILES = $ComposeProfile
# Traces would go to nobody without Jaeger.
if ($ComposeProfile -eq 'core') { $env:MAINSTAY_OTLP_ENDPOINT = '' }

if ($Down) {
    docker compose down
    exit $LASTEXITCODE
}

docker compose config --quiet
if ($LASTEXITCODE -ne 0) { Stop-With 'the compose files do not hold' }
Write-Output 'building and starting (the first time takes some minutes)'
docker compose up --build --detach
if ($LASTEXITCODE -ne 0) { Stop-With 'docker compose could not start everything' }

$until = (Get-Date).AddSeconds($WithinSeconds)
$told = 'no answer yet'
while ($true) {
    try {
        $status = Invoke-RestMethod -Uri 'http://127.0.0.1:4000/health/status' -TimeoutSec 5
        if ($status.status -eq 'healthy') { break }
        $told = "$($status.status): $($status.reasons -join '; ')"
    } catch {
        $told = $_.Exception.Message
    }
    if ((Get-Date) -gt $until) { Stop-With "not healthy within $WithinSeconds s: $told" }
    Start-Sleep -Milliseconds 500
}

Write-Output 'healthy. The API keys:'
docker compose run --rm secrets show
Write-Output @'

REST, dashboard   http://127.0.0.1:4000/dashboard
OpenAPI           http://127.0.0.1:4000/docs
WebSocket         ws://127.0.0.1:4021/connection/websocket
'@
if ($ComposeProfile -ne 'core') {
    Write-Output 'Jaeger            http://127.0.0.1:16686'
    Write-Output 'Prometheus        http://127.0.0.1:9090'
    Write-Output 'Grafana           http://127.0.0.1:3000'
}
