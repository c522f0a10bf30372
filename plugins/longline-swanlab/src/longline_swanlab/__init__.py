"""A Longline plugin that shows runs in SwanLab: metrics, tables, alerts and the config, online or on this machine."""
