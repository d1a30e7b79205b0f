"""The planner: forecasts load, staffs groups, decides, tunes and routes. Pure functions and objects; time is passed in."""
